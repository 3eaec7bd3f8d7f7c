# SPDX-License-Identifier: Apache-2.0
"""One operating-system process: what it printed, and why it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable

import psutil
import pytest
import uvloop

from lmi.workers.process import Exit, Process
from tests.limits import limit_s
from tests.servers import eventually


def run(code: str, act: Callable[[Process], None] = lambda process: None, **environ: str) -> Exit:
    """Run Python code to its end; ``act`` happens when it printed its first line."""

    async def main() -> Exit:
        command = [sys.executable, "-c", code]
        process = await Process.start(command, label="model/0", environ={**os.environ, **environ})
        act(process)
        return await asyncio.wait_for(process.wait(), limit_s(20))

    return uvloop.run(main())  # as in the server


@pytest.mark.parametrize("code", [0, 3, 70])
def test_an_exit_code_is_kept(code: int) -> None:
    exit_ = run(f"raise SystemExit({code})")
    assert (exit_.code, exit_.signal_name, str(exit_)) == (code, "", f"exited with code {code}")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_signal_is_named(name: str) -> None:
    exit_ = run(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert (exit_.code, exit_.signal_name) == (None, name)
    assert not exit_.is_out_of_memory
    assert str(exit_) == f"killed by {name}"


def test_a_childs_death_for_lack_of_memory_is_told_from_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    n_kills = iter([0, 1])
    monkeypatch.setattr("lmi.workers.process.n_oom_kills", lambda: next(n_kills))
    exit_ = run("raise SystemExit(137)")  # as mpirun and shells tell of a child that SIGKILL ended
    assert (exit_.code, exit_.signal_name, exit_.is_out_of_memory) == (137, "SIGKILL", True)


def test_the_out_of_memory_killer_is_named() -> None:
    exit_ = Exit(code=None, signal_name="SIGKILL", is_out_of_memory=True)
    assert str(exit_) == "killed by SIGKILL: the kernel's out-of-memory killer struck"


def test_both_outputs_are_relayed_line_by_line_under_the_label(caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import sys; print('to out', flush=True); print('to err', file=sys.stderr)\n"
        "print(); print('no newline', end='')"
    )
    with caplog.at_level(logging.INFO, "lmi.worker"):
        exit_ = run(code)
    messages = [record.getMessage() for record in caplog.records if record.name == "lmi.worker"]
    assert sorted(messages) == ["[model/0] no newline", "[model/0] to err", "[model/0] to out"]
    assert sorted(exit_.last_lines) == ["no newline", "to err", "to out"]


def test_the_last_lines_are_kept_and_the_first_are_not() -> None:
    exit_ = run("for index in range(1000): print('line', index)")
    assert exit_.last_lines == tuple(f"line {index}" for index in range(970, 1000))


def test_bytes_that_are_no_text_and_endless_lines_do_no_harm() -> None:
    code = "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe bytes\\n' + b'x' * 3_000_000 + b'\\n' + b'the end\\n')\n"
    exit_ = run(code)
    assert exit_.code == 0
    assert exit_.last_lines[0] == "\ufffd\ufffd bytes"
    assert exit_.last_lines[-1] == "the end"


def test_its_environment_is_the_given_one() -> None:
    assert run("import os; print(os.environ['OWN'])", OWN="value").last_lines == ("value",)


def test_killing_ends_it() -> None:
    exit_ = run("import time; time.sleep(3600)", Process.kill)
    assert exit_.signal_name == "SIGKILL"


def test_what_it_started_ends_with_it() -> None:
    code = (
        "import os, subprocess, sys\n"
        "os.setpgid(0, 0)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print(child.pid, flush=True)\n"
    )
    exit_ = run(code)
    child = int(exit_.last_lines[0])
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
