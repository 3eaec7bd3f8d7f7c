# SPDX-License-Identifier: Apache-2.0
"""What the kernel's out-of-memory killer has done is read from either version of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.workers import process
from lmi.workers.process import Exit, n_oom_kills

V2 = "low 0\nhigh 0\nmax 17\noom 3\noom_kill 2\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


@pytest.mark.parametrize(("text", "n_kills"), [(V2, 2), (V1, 2), ("oom_kill_disable 0\nunder_oom 0\n", 0), ("odd", 0)])
def test_kills_are_counted_where_the_kernel_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, n_kills: int
) -> None:
    (tmp_path / "counts").write_text(text)
    monkeypatch.setattr(process, "CGROUP_EVENTS", (tmp_path / "absent", tmp_path / "counts"))
    assert n_oom_kills() == n_kills


def test_an_exit_by_the_killer_says_so() -> None:
    told = str(Exit(code=None, signal_name="SIGKILL", is_out_of_memory=True))
    assert told == "killed by SIGKILL: the kernel's out-of-memory killer struck"
