# SPDX-License-Identifier: Apache-2.0
"""Model folders with Python of their own, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.api import ArtifactError
from lmi.config import read_settings
from lmi.custom.model_file import Found, ModelFile, find_model_file

HANDLE = "def handle(inputs): ...\n"
FILTER = """
from lmi.api import hookimpl

@hookimpl
def lmi_filter_text(text): ...
"""


class Folder:
    """A model folder; called, it writes ``model.py`` (or leaves it) and looks for what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, code: str | None = None, environ: dict[str, str] | None = None, **options: str) -> Found:
        if code is not None:
            (self.path / "model.py").write_text(code)
        settings = read_settings(model_folder=self.path, environ={}, flags=options)
        return find_model_file(self.path, settings, environ or {})


def codes(error: pytest.ExceptionInfo[ArtifactError]) -> list[str]:
    assert error.value.code == "artifacts.invalid"
    return [problem.code for problem in error.value.problems]


def kept(found: Found) -> ModelFile:
    assert found.file is not None
    return found.file
