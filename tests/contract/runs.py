# SPDX-License-Identifier: Apache-2.0
"""The contract in a process of its own: as an author's test file, and as the command."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tests.limits import limit_s

FILE = """
from lmi.testing import BackendCase, BackendContract


class TestContract(BackendContract):
    case = BackendCase(backend="toy", model={model!r}, settings={settings!r}, known_failures={known!r},
                       kill_engine=lambda engine: engine.die())
{more}
"""

_UNUSED = ("cacheprovider", "hypothesispytest", "xdist", "xdist.looponfail")
QUICK = ("-c", "/dev/null", *(f"-pno:{name}" for name in _UNUSED))
"""Without the plugins that nothing is asked of here: each run would begin with importing them."""


def run_pytest(toy, folder: Path, *arguments: str, settings=None, known=None, more: str = "") -> tuple[int, str]:
    """Run a plugin author's own test file."""
    text = FILE.format(model=str(toy.model), settings=settings or {}, known=known or {}, more=more)
    (folder / "test_toy.py").write_text(text)
    command = [sys.executable, "-m", "pytest", *QUICK, "--rootdir", str(folder), "--confcutdir", str(folder)]
    if not installed_with_plugin():
        command += ["-p", "lmi.testing.pytest_plugin"]
    done = subprocess.run(
        [*command, str(folder / "test_toy.py"), *arguments],
        capture_output=True, text=True, timeout=limit_s(120), env=environ(), cwd=folder, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def kit_with(method: str, does: str) -> str:
    """Code that gives the kit another method, of one line."""
    code = "\nimport lmi.testing.kit as _kit\n\n\ndef _other(self, *arguments):\n    {}\n\n\n_kit.Kit.{} = _other\n"
    return code.format(does, method)


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


def installed_with_plugin() -> bool:
    return any(each.value == "lmi.testing.pytest_plugin" for each in entry_points(group="pytest11"))


def contract(*arguments: str, path: Path = Path(), **variables: str) -> tuple[int, str]:
    """Run the command, with a folder to import from."""
    variables = {**environ(), "PYTHONPATH": f"{path}{os.pathsep}{environ()['PYTHONPATH']}", **variables}
    done = subprocess.run(
        [sys.executable, str(Path(sys.executable).with_name("lmi")), "contract", *arguments],
        capture_output=True, text=True, timeout=limit_s(60), env=variables, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr
