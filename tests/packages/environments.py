# SPDX-License-Identifier: Apache-2.0
"""Python environments of their own, with nothing in them but what a test installs.

``bare`` ones have the wheels of the workspace and the libraries that lmi-core asks for, linked from the environment of
the tests, which takes a second and no network; ``from_index`` ones are filled by pip as those of users are.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from unittest import mock

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.limits import limit_s
from tests.packages.wheels import Wheel
from tests.servers import ServerProcess

_FOREIGN = ("LMI_", "OPTION_", "SERVING_", "HF_", "PYTHON", "VIRTUAL_ENV")


class Environment:
    """A virtual environment without pip; pip of the tests' environment fills it."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=limit_s(60))
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")

    @classmethod
    def bare(cls, folder: Path, wheels: Sequence[Path], extra: str | None = None) -> Environment:
        """An environment with these wheels, and what their own metadata says they need.

        Args:
            folder: made by this.
            wheels: lmi-core's among them.
            extra: links the libraries of this extra of theirs as well.
        """
        environment = cls(folder)
        needed = [each for wheel in map(Wheel, wheels) for each in wheel.requirements().values()]
        if extra is not None:
            needed += [each for wheel in map(Wheel, wheels) for each in wheel.requirements(extra).values()]
        _link(_closure(each for each in needed if not each.name.startswith("lmi-")), folder / "libraries")
        # A folder named in a .pth is searched, but its own .pth files, those of editable installs, are not obeyed.
        (environment.site / "libraries.pth").write_text(f"{folder / 'libraries'}\n")
        environment.pip("--no-deps", "--no-index", *map(str, wheels))
        return environment

    @classmethod
    def from_index(cls, folder: Path, wheels: Path, *requirements: str) -> Environment:
        """An environment that pip filled from its index, with LMI's own distributions from a folder of wheels."""
        environment = cls(folder)
        environment.pip("--find-links", str(wheels), *requirements, seconds=900)
        return environment

    def pip(self, *arguments: str, seconds: float = 60) -> str:
        """``pip install`` into this environment; what it printed."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", *arguments]
        return self._run(command, dict(os.environ), seconds, {0})

    def lmi(self, *arguments: str, exits: int = 0, seconds: float = 60, **environ: str) -> str:
        """What ``lmi ARGUMENTS`` printed, both streams together."""
        return self._run([str(self.python.with_name("lmi")), *arguments], self._environ(environ), seconds, {exits})

    def runs(self, script: str) -> str:
        """What a Python script printed."""
        return self._run([str(self.python), "-c", script], self._environ({}), 60, {0})

    def fails_to_serve(self, *arguments: str, **environ: str) -> str:
        """What ``lmi serve`` printed before it gave up."""
        command = [str(self.python.with_name("lmi")), "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
        return self._run(command, self._environ(environ), 120, {1, 2})

    @contextlib.contextmanager
    def serves(self, *arguments: str, seconds: float = 120, **environ: str) -> Iterator[ServerProcess]:
        """``lmi serve`` of this environment, when it is ready."""
        with (
            mock.patch.object(sys, "executable", str(self.python)),
            mock.patch.dict(os.environ, self._environ(environ), clear=True),
        ):
            server = ServerProcess(*arguments, cwd=self.folder)
        try:
            yield server.wait_until_ready(seconds)
        finally:
            server.kill()

    def _environ(self, added: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {**kept, "HF_HUB_OFFLINE": "1", "HOME": str(self.folder), **added}

    def _run(self, command: list[str], environ: dict[str, str], seconds: float, expected: set[int]) -> str:
        done = subprocess.run(
            command,
            env=environ,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s(seconds),
            check=False,
        )
        assert done.returncode in expected, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout


def _closure(requirements: Iterable[Requirement]) -> set[str]:
    """Names of all distributions that these requirements bring, as they are installed here."""
    waiting = [(canonicalize_name(each.name), extra) for each in requirements for extra in ("", *each.extras)]
    seen = set(waiting)
    while waiting:
        name, wanted_extra = waiting.pop()
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted_extra}):
                more = {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)} - seen
                seen |= more
                waiting += more
    return {name for name, _ in seen}


def _link(names: set[str], folder: Path) -> None:
    """Links to the modules and the metadata of installed distributions."""
    folder.mkdir()
    for name in sorted(names):
        owner = distribution(name)
        tops = {file.parts[0] for file in owner.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            link = folder / top
            if not link.is_symlink():
                link.symlink_to(Path(str(owner.locate_file(top))))
