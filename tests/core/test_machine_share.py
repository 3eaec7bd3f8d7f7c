# SPDX-License-Identifier: Apache-2.0
"""What a machine offers one process of a model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lmi.api import machine
from lmi.api.machine import GROUP, Ranks, memory_share_bytes, ranks_of

GIB = 1 << 30


def files(monkeypatch, **content):
    found = {path.replace("__", "/"): text for path, text in content.items()}
    monkeypatch.setattr(machine, "_read", lambda path: found.get(path.lstrip("/").replace(".", "_"), ""))


MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 800 kB\n"


@pytest.mark.parametrize(
    ("content", "n_bytes"),
    [
        ({"proc__meminfo": MEMINFO}, 800 * 1024),
        ({"proc__meminfo": MEMINFO, "sys__fs__cgroup__memory_max": "max"}, 800 * 1024),
        (
            {
                "proc__meminfo": MEMINFO, "sys__fs__cgroup__memory_max": "500000",
                "sys__fs__cgroup__memory_current": "300000", "sys__fs__cgroup__memory_stat": "inactive_file 50000\n",
            },
            250_000,
        ),
    ],
)  # fmt: skip
def test_free_memory_is_that_of_the_container(content, n_bytes, monkeypatch):
    files(monkeypatch, **content)
    assert machine.free_memory_bytes() == n_bytes


@pytest.mark.parametrize(
    ("content", "n_cores"),
    [
        ({}, 0),
        ({"sys__fs__cgroup__cpu_max": "max 100000"}, 0),
        ({"sys__fs__cgroup__cpu_max": "250000 100000"}, 2),
        ({"sys__fs__cgroup__cpu_max": "50000 100000"}, 1),
    ],
)
def test_a_quota_is_a_number_of_cores(content, n_cores, monkeypatch):
    files(monkeypatch, **content)
    assert machine.n_quota_cores() == n_cores


@pytest.mark.parametrize(("text", "copy"), [("1/4", (1, 4)), ("", (0, 1)), ("4/4", (0, 1)), ("x", (0, 1))])
def test_a_copy_knows_which_it_is(text, copy):
    assert machine.copy_of({"LMI_COPY": text} if text else {}) == copy


def test_cores_are_those_of_the_process_within_its_quota(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(machine, "n_quota_cores", lambda: 0)
    assert machine.n_cores() == 4
    monkeypatch.setattr(machine, "n_quota_cores", lambda: 3)
    assert machine.n_cores() == 3


RANK = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        (RANK, Ranks(rank=3, size=4, local_rank=1, local_size=2)),
        ({}, Ranks()),
        ({**RANK, "LOCAL_RANK": ""}, Ranks()),
        ({**RANK, "RANK": "x"}, Ranks()),
    ],
)
def test_a_process_knows_its_rank(environ, ranks):
    assert ranks_of(environ) == ranks


@pytest.mark.parametrize(
    ("environ", "held_gib", "free_gib", "share_gib"),
    [
        ({}, {}, 20, 20),
        ({"LMI_COPY": "1/4"}, {}, 20, 5),
        # three that are loaded hold 12 each of 64 GiB with 4 in use by others: this one may take as much as they have
        ({"LMI_COPY": "1/4"}, {1: 12, 2: 12, 3: 12}, 24, 15),
        # one that holds its weights already takes the rest of its own share
        ({"LMI_COPY": "1/4"}, {os.getpid(): 3, 1: 12, 2: 12, 3: 12}, 21, 12),
        # never more than there is
        ({"LMI_COPY": "1/2"}, {1: 40}, 8, 8),
        ({"LMI_COPY": "0/2"}, {os.getpid(): 40}, 8, 0),
        ({**RANK, "LMI_COPY": "0/2"}, {}, 20, 5),
        (RANK, {}, 20, 10),
    ],
)
def test_copies_and_ranks_share_memory_evenly_whatever_they_hold_already(
    environ, held_gib, free_gib, share_gib, monkeypatch
):
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: free_gib * GIB)
    monkeypatch.setattr(machine, "_held_bytes", lambda _: {pid: n * GIB for pid, n in held_gib.items()})
    assert memory_share_bytes(environ) == share_gib * GIB


def test_only_processes_of_the_same_model_hold_a_share_of_it():
    hold = "import time; held = bytearray(64 << 20); print(len(held), flush=True); time.sleep(60)"
    started = [
        subprocess.Popen([sys.executable, "-c", hold], env={**os.environ, GROUP: name}, stdout=subprocess.PIPE)
        for name in ("ours", "theirs")
    ]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        held = machine._held_bytes("ours")
        assert set(held) == {os.getpid(), started[0].pid}
        assert held[started[0].pid] > 60 << 20
    finally:
        for each in started:
            each.kill()
            each.communicate()


def test_this_machine_can_be_asked():
    assert machine.free_memory_bytes() > 0
    assert machine.n_cores() >= 1
