# SPDX-License-Identifier: Apache-2.0
"""Servers with the example extensions, installed as their project says."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import faulty_path
from tests.limits import limit_s
from tests.servers import ServerProcess, serve

__all__ = ["faulty_path"]  # a fixture

FOLDER = Path(__file__).parents[2] / "examples" / "extensions"

Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the examples."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", folder, FOLDER], check=True, timeout=limit_s(120))
    return folder


@pytest.fixture(scope="session")
def entry_points(site: Path) -> dict[str, str]:
    """What the examples are called, and what each name leads to."""
    [owner] = importlib.metadata.distributions(path=[str(site)])
    return {each.name: each.value for each in owner.entry_points.select(group="lmi.extensions")}


@pytest.fixture(scope="session")
def serve_with(site: Path) -> Serve:
    """``with serve_with("guardrail", step_delay_ms=2) as server:`` has that extension and no other."""

    def start(
        names: str, *, audit: Path | str = "", is_ready: bool = True, **options: object
    ) -> AbstractContextManager[ServerProcess]:
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environ = {"PYTHONPATH": path, "LMI_EXTENSIONS": names, "TOKEN_AUDIT_FILE": str(audit)}
        pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return serve("-o", "rolling_batch=echo", *pairs, environ=environ, is_ready=is_ready)

    return start


def streamed(server: ServerProcess, prompt: str, **parameters: Any) -> list[str]:
    """The texts of a stream's tokens; all of them are the text the last line repeats."""
    lines = list(server.stream(prompt, **parameters))
    texts = [line["token"]["text"] for line in lines]
    assert "".join(texts) == lines[-1]["generated_text"]
    return texts
