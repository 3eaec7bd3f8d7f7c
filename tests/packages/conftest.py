# SPDX-License-Identifier: Apache-2.0
"""The wheels of the workspace, built once, and environments that hold them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.limits import limit_s
from tests.packages.environments import Environment

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "core", *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]

BareEnvironment = Callable[..., Environment]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of every project of the workspace."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, folder, *PROJECTS], check=True, timeout=limit_s(120))
    return folder


@pytest.fixture(scope="session")
def bare(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> BareEnvironment:
    """``bare("lmi_core", "lmi_echo")``: an environment with these wheels of the workspace; made once for all tests."""
    made: dict[tuple[str, ...], Environment] = {}

    def environment(*names: str) -> Environment:
        if names not in made:
            chosen = [next(wheels.glob(f"{name}-*.whl")) for name in names]
            made[names] = Environment.bare(tmp_path_factory.mktemp("environment") / "venv", chosen)
        return made[names]

    return environment
