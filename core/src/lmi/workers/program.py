# SPDX-License-Identifier: Apache-2.0
"""What is run as a worker: a command, its variables, and what its end means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmi.workers.process import Exit

_START = "import sys; sys.path[:] = filter(None, sys.path); from {module} import main; main()"
"""Not ``-m``: the current folder, which may be a model's, must not be imported from."""


class Program:
    """One process that speaks to the server.

    Args:
        python: the interpreter it runs under.
    """

    module = "lmi.workers.main"
    is_asked_to_end = False
    """Whether it must be told that the server is gone; what is ours finds out by itself."""

    def __init__(self, python: str) -> None:
        self.python = python

    def command(self, socket_path: Path, environ: Mapping[str, str]) -> list[str]:
        """What is run.

        Args:
            socket_path: where the server listens.
            environ: what it will run in.
        Raises:
            EngineLoadError: it cannot be run here.
        """
        return [self.python, "-c", _START.format(module=self.module), str(socket_path)]

    def environ(self, given: Mapping[str, str], folder: Path) -> dict[str, str]:
        """What it runs in.

        Args:
            given: what it shall run in.
            folder: for files that need not outlive the server.
        """
        return dict(given)

    def reason(self, exit_: Exit) -> str:
        """Why it ended, in words: ``exited with code 1``."""
        return str(exit_)
