# SPDX-License-Identifier: Apache-2.0
"""Servers on the real vLLM, small enough for a machine that does other things, too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers import ServerProcess, eventually, serve

_OPTIONS = (
    "rolling_batch=vllm", "dtype=fp32", "enforce_eager=true", "kv_cache_memory_bytes=67108864",
    "max_rolling_batch_size=8", "heartbeat_interval=0.2",
)  # fmt: skip
LOAD_S = 300


@contextlib.contextmanager
def started(
    folder: Path, python: str, *options: str, environ: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server that was told to start; later options replace earlier ones."""
    pairs = [part for each in (*_OPTIONS, f"pythonExecutable={python}", *options) for part in ("-o", each)]
    with serve(str(folder), *pairs, environ=environ, is_ready=False) as server:
        yield server


@contextlib.contextmanager
def running(
    folder: Path, python: str, *options: str, environ: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with started(folder, python, *options, environ=environ) as server:
        yield server.wait_until_ready(LOAD_S)


def n_steps_of(server: ServerProcess, prompt: str, **parameters: Any) -> int:
    """How many steps vLLM takes for a request that is alone."""
    before = eventually(lambda: _idle(server, -1))
    server.generate(prompt, **parameters)
    # What is told was counted at one moment: idle, and with more steps than before, is after the last one.
    return int(eventually(lambda: _idle(server, before[0]))[0] - before[0])


def _idle(server: ServerProcess, n_before: int) -> tuple[int, ...]:
    """The number of steps, if nothing runs and there were more than some."""
    (worker,) = server.workers()
    n_steps = worker["n_steps"]
    return (n_steps,) if worker["n_running"] == worker["n_requests"] == 0 and n_steps > n_before else ()
