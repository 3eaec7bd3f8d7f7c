# SPDX-License-Identifier: Apache-2.0
"""What a user does: pip fetches everything from its index, LMI's own distributions being the wheels of the workspace.

LMI_TEST_TORCH says what pip gets for torch, options included; without it, the version that is here.
"""

from __future__ import annotations

import os
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.packages.environments import Environment
from tests.tiny import write_tiny_llama

pytestmark = pytest.mark.long


def test_the_core_alone_starts_and_lists_nothing(wheels: Path, tmp_path: Path) -> None:
    environment = Environment.from_index(tmp_path / "venv", wheels, "lmi-core")
    assert "No plugins are installed." in environment.lmi("plugins")
    assert "plugin.none-installed" in environment.fails_to_serve(str(tmp_path))


def test_the_example_backend_serves(wheels: Path, tmp_path: Path) -> None:
    environment = Environment.from_index(tmp_path / "venv", wheels, "lmi-echo")
    with environment.serves("-o", "rolling_batch=echo") as server:
        assert server.generate("good day", max_new_tokens=4)["generated_text"] == "good"


def test_transformers_without_its_engine_says_how_to_get_it_and_serves_when_it_is_there(
    wheels: Path, tmp_path: Path
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    environment = Environment.from_index(tmp_path / "venv", wheels, "lmi-hf")
    assert "pip install 'lmi-hf[engine]'" in environment.fails_to_serve(str(model))

    torch = shlex.split(os.environ.get("LMI_TEST_TORCH") or f"torch=={version('torch')}")
    environment.pip("--find-links", str(wheels), *torch, "lmi-hf[engine]", seconds=1800)
    with environment.serves(str(model), "-o", "dtype=fp32", "-o", "n_threads=1") as server:
        answer = server.generate("good day", max_new_tokens=4, ignore_eos_token=True, details=True)
        assert answer["details"]["generated_tokens"] == 4
