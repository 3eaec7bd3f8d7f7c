# SPDX-License-Identifier: Apache-2.0
"""Fetching by several processes, by killed ones and by interrupted ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import Bucket
from tests.core.fetching import BIG, CHUNK, MODEL, PART, URL, contents, fetch, finished, model_behind_proxy
from tests.proxies import Fault, Proxy


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with model_behind_proxy(bucket, monkeypatch) as found:
        yield found


FETCH = f"""
import logging, sys
from pathlib import Path
from lmi.artifacts.places import transfer
transfer.PART_BYTES, transfer.CHUNK_BYTES = {PART}, {CHUNK}
from lmi.artifacts.places.download import download
from lmi.artifacts.places.objects import ObjectFiles
logging.basicConfig(level="INFO", format="%(message)s")
files = ObjectFiles("{URL}")
print("listed", flush=True)
print(download(files, list(files.sizes), root=Path(sys.argv[1])))
"""


def process(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition, timeout_s: float = 20) -> None:
    """Wait for something that happens."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_what_a_killed_process_had_fetched_is_not_fetched_again(proxy, tmp_path):
    proxy.faults = [Fault("model.bin", pause_s=0.6, piece_bytes=CHUNK)]
    killed = process(tmp_path)
    saved = "models/*/blobs/*.state"
    until(lambda: sum(sum(json.loads(path.read_text())["done"]) for path in tmp_path.glob(saved)) >= 4 * CHUNK)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert finished(tmp_path) == []
    [state] = tmp_path.glob(saved)
    n_saved = sum(json.loads(state.read_text())["done"])
    assert 4 * CHUNK <= n_saved < len(BIG)
    proxy.clear()
    assert contents(fetch(tmp_path)) == MODEL
    spans = [each.split("-") for each in proxy.bytes_of("model.bin")]
    assert sum(int(end) - int(start) + 1 for start, end in spans) == len(BIG) - n_saved


def test_two_processes_at_once_fetch_once(proxy, tmp_path):
    gate = threading.Event()
    proxy.faults = [Fault("model.bin", gate=gate)]
    first = process(tmp_path)
    until(lambda: proxy.bytes_of("model.bin"))
    second = process(tmp_path)
    assert second.stderr is not None
    waits = second.stderr.readline()
    gate.set()
    told = [each.communicate(timeout=30) for each in (first, second)]
    assert [each.returncode for each in (first, second)] == [0, 0], told
    assert waits == f"another process fetches {URL}; waiting for it\n"
    assert "another process" not in told[0][1]
    assert told[0][0] == told[1][0]
    assert len(proxy.bytes_of("model.bin")) == 4
    assert contents(Path(told[0][0].split("\n")[1])) == MODEL


def test_threads_of_one_process_fetch_once(proxy, tmp_path):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(proxy.bytes_of("model.bin")) == 4


def test_an_interrupted_fetching_goes_on_later(proxy, tmp_path):
    def interrupts(stage: str, fraction: float | None) -> None:
        if fraction:
            raise KeyboardInterrupt

    proxy.faults = [Fault("model.bin", pause_s=0.3, piece_bytes=CHUNK)]
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, progress=interrupts)
    assert finished(tmp_path) == []
    proxy.clear()
    assert contents(fetch(tmp_path)) == MODEL
    assert proxy.n_body_bytes < len(BIG)
