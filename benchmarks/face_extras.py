# SPDX-License-Identifier: Apache-2.0
"""What face.py measures besides throughput: start of the command, memory of waiting streams, correctness, pace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import load
from peer_servers import N_STREAM_TOKENS, Job, both_jobs, lmi_body
from processes import Lmi, median, verdict

HELP_BAR_S, WAITING_BAR_KIB = 0.3, 50.0
_N_STILL, _STILL_S = 5, 0.015  # looks in a row, and CPU time between two, at which a server counts as idle
_N_WARM_UP_STREAMS = 64
_SPARE_FILES = 256
_STEP_MS = 20


def print_help_cost(n_runs: int = 10) -> None:
    """CPU seconds of ``lmi --help``."""
    used_s = []
    for _ in range(n_runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "lmi", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"lmi --help: CPU seconds {verdict(median(used_s), HELP_BAR_S, at_most=True)}", flush=True)


# -------------------------------------------------------------------------------------------------------------- memory


def print_waiting_cost(n_streams: int) -> None:
    """Resident memory that streams in the queue add to the server and, apart from it, to the worker."""
    n_streams = min(n_streams, _raise_open_files(n_streams + _SPARE_FILES) - _SPARE_FILES)
    options = ("rolling_batch=echo", "max_rolling_batch_size=1", "step_delay_ms=60000", f"job_queue_size={n_streams}")
    with Lmi(*(word for option in options for word in ("-o", option))) as lmi:
        with _waiting_streams(lmi, _N_WARM_UP_STREAMS):
            pass
        _wait_until_idle(lmi)
        server, worker = lmi.root.memory_info().rss, lmi.worker.memory_info().rss
        with _waiting_streams(lmi, n_streams):
            server_kib = (lmi.root.memory_info().rss - server) / 1024 / n_streams
            worker_kib = (lmi.worker.memory_info().rss - worker) / 1024 / n_streams
    print(
        f"a waiting stream, {n_streams} of them: KiB in the server {verdict(server_kib, WAITING_BAR_KIB, at_most=True)}"
    )
    print(
        f"  and {worker_kib:.1f} KiB in the worker (bare: server {server >> 20} MiB, worker {worker >> 20} MiB)",
        flush=True,
    )


def _raise_open_files(n_wanted: int) -> int:
    """Allow this process and its children so many open files, or as many as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = n_wanted if hard == resource.RLIM_INFINITY else min(n_wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return n_wanted if soft == resource.RLIM_INFINITY else soft


@contextlib.contextmanager
def _waiting_streams(lmi: Lmi, n: int) -> Any:
    """Open streams whose first token is far away; inside the block all of them wait in the server."""
    parts = urlsplit(lmi.url)
    body = json.dumps(lmi_body(N_STREAM_TOKENS, stream=True)).encode()
    head = f"POST /invocations HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as sockets:
        for _ in range(n):
            connection = sockets.enter_context(socket.create_connection((str(parts.hostname), int(parts.port or 80))))
            connection.sendall(head + body)
        _wait_until_idle(lmi)
        yield


def _wait_until_idle(lmi: Lmi) -> None:
    """Wait until the server has taken what was sent: its CPU time stands still. Most requests wait in its own queue."""
    end_s, n_still, used_s = time.monotonic() + 60, 0, -1.0
    while n_still < _N_STILL:
        if time.monotonic() > end_s:
            raise SystemExit(f"the server is busy without end; its output:\n{lmi.log()[-2000:]}")
        time.sleep(0.3)
        before_s, used_s = used_s, sum(lmi.root.cpu_times()[:2])
        n_still = n_still + 1 if used_s - before_s < _STILL_S else 0
    time.sleep(1.5)  # the worker's side follows with the next heartbeat


# --------------------------------------------------------------------------------------------------------- correctness


def print_checked_streams(url: str, stream: Job, load_it: Callable[[], int], n_streams: int = 300) -> None:
    """Streams of distinct prompts checked token by token while wrk keeps the server saturated."""
    source = random.Random(1)
    prompts = ["".join(source.choices(string.ascii_letters, k=source.randint(3, 40))) for _ in range(n_streams)]
    bodies = [{**stream.body, "inputs": prompt} for prompt in prompts]
    loader = threading.Thread(target=load_it)
    loader.start()
    answers = asyncio.run(load.fetch(f"{url}/invocations", bodies, 8))
    is_loaded = loader.is_alive()
    loader.join()
    for prompt, answer in zip(prompts, answers, strict=True):
        lines = answer.lines()
        text = "".join(line["token"]["text"] for line in lines)
        echoed = (prompt * N_STREAM_TOKENS)[:N_STREAM_TOKENS]
        faults = {
            "status": answer.status != 200,
            "number of lines": len(lines) != N_STREAM_TOKENS,
            "text of the tokens": text != echoed,
            "generated_text": lines[-1].get("generated_text") != echoed,
        }
        if any(faults.values()):
            wrong = ", ".join(name for name, is_wrong in faults.items() if is_wrong)
            raise SystemExit(f"a stream of {prompt!r} is wrong in {wrong}: {bytes(answer.body)!r}")
    when = "under load" if is_loaded else "partly after the load had ended"
    print(
        f"  {n_streams} streams checked {when}: each has {N_STREAM_TOKENS} lines, all tokens and text right", flush=True
    )


def print_paced(measured: Callable[[Job, Lmi], str]) -> None:
    """Tokens a write and their price where the engine, not the server, sets the pace."""
    with Lmi("-o", "rolling_batch=echo", "-o", f"step_delay_ms={_STEP_MS}") as lmi:
        paced = measured(both_jobs("lmi", lmi, f"{lmi.url}/invocations")[1], lmi)
    print(f"  an engine with a step every {_STEP_MS} ms, 32 connections: {paced}", flush=True)
