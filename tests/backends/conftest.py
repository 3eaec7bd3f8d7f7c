# SPDX-License-Identifier: Apache-2.0
"""What tests of several files have in common: small models, and the stand-in of Neuron's libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny
from tests.backends.neuron_standin import standin_importable, write_machine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny("llama")``: a small model of a family; it is written once, and is not to be changed."""
    root, written = tmp_path_factory.mktemp("tiny"), dict[str, Path]()

    def folder(family: str) -> Path:
        if family not in written:
            written[family] = write_tiny(family, root / family)
        return written[family]

    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture(scope="module")
def neuron_libraries() -> Iterator[None]:
    """This process can import the stand-in, for the tests of one file."""
    with standin_importable():
        yield


@pytest.fixture
def neuron_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the stand-in notes down what it is told; variables that a load sets are as before afterwards."""
    monkeypatch.setenv("STANDIN_NEURON_RECORD", str(tmp_path / "record"))
    for name in ("NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "NEURON_RT_VISIBLE_CORES"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("NEURON_RT_VISIBLE_CORES")
    return tmp_path / "record"


@pytest.fixture(scope="session")
def neuron_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a machine with two devices of two cores."""
    return write_machine(tmp_path_factory.mktemp("machine"))
