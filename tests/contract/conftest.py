# SPDX-License-Identifier: Apache-2.0
"""The toy backend, installed for the length of the tests of this folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny
from tests.core.distributions import Distributions

README = "# A toy\n\n<!-- generated: options:toy -->\nstale\n<!-- end -->\n"


class Toy:
    """Where the toy is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_tiny("llama", folder / "model")
        code = Path(__file__).with_name("toy_plugin.py").read_text("utf-8")
        self.module = Distributions(folder).install("lmi-toy", "lmi.backends", "toy", code)
        self.metadata = folder / "lmi_toy-1.0.dist-info" / "METADATA"
        self._head = self.metadata.read_text("utf-8")
        self.break_plugin("")

    def break_plugin(self, fault: str) -> None:
        """Break the plugin itself, for processes and imports from now on."""
        (self.folder / "toy_fault.txt").write_text(fault, "utf-8")
        sys.modules.pop(self.module, None)
        from lmi.config.tables import options_table
        from lmi.plugins import Plugins

        plugins = Plugins.discover({}, only_backend="toy")
        table = options_table(plugins.config_type("toy")) if "toy" in plugins.backends else ""
        readme = README if fault == "C4" else README.replace("stale", table)
        self.metadata.write_text(f"{self._head}\n{readme}", "utf-8")


@pytest.fixture(scope="session")
def installed_toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    folder = tmp_path_factory.mktemp("toy")
    sys.path.insert(0, str(folder))
    try:
        yield Toy(folder)
    finally:
        sys.path.remove(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def toy(installed_toy: Toy) -> Iterator[Toy]:
    """The toy, whole again after the test."""
    yield installed_toy
    installed_toy.break_plugin("")
