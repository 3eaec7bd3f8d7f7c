# SPDX-License-Identifier: Apache-2.0
"""What the network face costs: LMI with the echo backend beside other servers, in CPU seconds of all their processes.

    python benchmarks/face.py [--peers FOLDER] [--install] [--rounds 3] [--seconds 4]

Each server is loaded by wrk over 32 connections with plain requests (16 tokens, one JSON answer) and streams (128
tokens, a JSON line each). The servers take turns, several rounds; the median counts. Also: streams checked token by
token under load, tokens a write, CPU time of ``lmi --help``, memory of a waiting stream. Needs wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import face_extras
from peer_servers import INSTALLED, N_STREAM_TOKENS, Job, both_jobs, install, start_peers
from processes import Lmi, Noise, cpu_s, exit_on_signals, machine, median, quietest, verdict

PLAIN_BAR, STREAM_BAR = 1.5, 2.0
_N_CONNECTIONS = 32
_WARM_UP_S = 1


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run of wrk against one server.

    Args:
        n_requests: answered.
        wall_s: length of the run.
        cpu_s: of the server's process tree.
        worker_cpu_s: LMI's worker's part of it.
        tokens_per_write: in LMI's streams.
        others: share of the machine that other programs used: noise.
    """

    n_requests: int
    wall_s: float
    cpu_s: float
    worker_cpu_s: float = 0.0
    tokens_per_write: float = float("nan")
    others: float = 0.0

    @property
    def requests_per_cpu_s(self) -> float:
        return self.n_requests / self.cpu_s


def main() -> None:
    options = _arguments()
    exit_on_signals()
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk (Debian, Ubuntu) or brew install wrk (macOS)", file=sys.stderr)
        raise SystemExit(2)
    if options.install:
        install(options.peers)
    print(machine(), flush=True)
    face_extras.print_help_cost()
    face_extras.print_waiting_cost(options.waiting)
    with contextlib.ExitStack() as running:
        lmi = running.enter_context(Lmi("-o", "rolling_batch=echo"))
        own = both_jobs("lmi", lmi, f"{lmi.url}/invocations")
        jobs = [*own, *start_peers(options.peers, running)]
        loads = _rounds(jobs, lmi, options)
        _print_table(loads)
        _print_own(loads, own[1], lmi, options.seconds)
        face_extras.print_checked_streams(lmi.url, own[1], lambda: wrk(own[1], _N_CONNECTIONS, 3 * options.seconds))
    face_extras.print_paced(lambda job, served: _paced(measure(job, served, _N_CONNECTIONS, options.seconds)))


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("LMI_CACHE_DIR") or Path.home() / ".cache" / "lmi").expanduser()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=cache / "bench-peers", help="folder of the peers' environments")
    parser.add_argument("--install", action="store_true", help="make the environments that are missing (venv, pip)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of one run of wrk")
    parser.add_argument("--patience", type=float, default=0, metavar="S", help="wait so long for an idle machine")
    parser.add_argument("--waiting", type=int, default=2000, help="streams that wait while memory is measured")
    options = parser.parse_args()
    options.peers = options.peers.absolute()
    return options


# ----------------------------------------------------------------------------------------------------------- measuring


def _rounds(jobs: list[Job], lmi: Lmi, options: argparse.Namespace) -> dict[tuple[str, str], list[Load]]:
    """Loads by server and mode; all servers stay up, one is loaded at a time."""
    for job in jobs:
        job.check()
        wrk(job, _N_CONNECTIONS, _WARM_UP_S)
    loads = defaultdict(list)
    for _ in range(options.rounds):
        for job in jobs:
            once = partial(measure, job, lmi, _N_CONNECTIONS, options.seconds)
            loads[job.server, job.mode].append(quietest(once, lambda load: load.others, options.patience))
    return loads


def measure(job: Job, lmi: Lmi, n_connections: int, seconds: int) -> Load:
    """Load a server once; ``lmi`` is read for its own numbers where the job is its."""
    is_own = job.program is lmi
    names = ("lmi_output_tokens_total", "lmi_stream_writes_total") if is_own else ()
    counts = [lmi.counter(name) for name in names]
    noise = Noise()
    before_s, worker_s, started_s = job.program.cpu_s(), cpu_s(lmi.worker), time.monotonic()
    n_requests = wrk(job, n_connections, seconds)
    used_s, wall_s = job.program.cpu_s() - before_s, time.monotonic() - started_s
    tokens_per_write = float("nan")
    if is_own and job.mode == "stream":
        n_tokens, n_writes = (lmi.counter(name) - count for name, count in zip(names, counts, strict=True))
        tokens_per_write = n_tokens / n_writes
    return Load(
        n_requests=n_requests,
        wall_s=wall_s,
        cpu_s=used_s,
        worker_cpu_s=cpu_s(lmi.worker) - worker_s if is_own else 0.0,
        tokens_per_write=tokens_per_write,
        others=noise.share(),
    )


def wrk(job: Job, n_connections: int, seconds: int) -> int:
    """Number of requests answered; ends the benchmark when any failed."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        headers = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"'
        script.write_text(f"{headers}\nwrk.body = [==[{json.dumps(job.body)}]==]\n")
        command = ["wrk", "-t1", f"-c{n_connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), job.url]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failures = re.findall(r"Non-2xx.*|Socket errors.*", report)
    found = re.search(r"(\d+) requests in", report)
    if failures or found is None:
        raise SystemExit(f"{job.server} {job.mode}: {failures or report}: such numbers would not count")
    return int(found[1])


# ------------------------------------------------------------------------------------------------------------ printing


def _print_table(loads: dict[tuple[str, str], list[Load]]) -> None:
    others = [load.others for runs in loads.values() for load in runs]
    n_rounds = len(loads["lmi", "plain"])
    print(f"\n{n_rounds} rounds; other programs used {median(others):.0%} of the machine (at most {max(others):.0%})")
    print(f"a CPU second of all its processes, {_N_CONNECTIONS} connections, median (lowest to highest):")
    for mode, unit, factor, bar in (
        ("plain", "requests", 1, PLAIN_BAR),
        ("stream", "tokens", N_STREAM_TOKENS, STREAM_BAR),
    ):
        print(f"  {mode}: {unit}")
        rates = {s: [load.requests_per_cpu_s * factor for load in runs] for (s, m), runs in loads.items() if m == mode}
        for server, values in sorted(rates.items(), key=lambda item: -median(item[1])):
            wall = median([load.n_requests * factor / load.wall_s for load in loads[server, mode]])
            spread = f"({min(values):,.0f} to {max(values):,.0f})"
            print(f"    {server:10} {median(values):>9,.0f}  {spread:24} {wall:>9,.0f} {unit} a second of wall time")
        peers = [name for name in INSTALLED if name in rates]
        if not peers:
            print("    no verdict: none of " + ", ".join(INSTALLED) + " is there; --install makes them")
            continue
        best = max(peers, key=lambda name: median(rates[name]))
        ratio = median([own / peer for own, peer in zip(rates["lmi"], rates[best], strict=True)])
        print(f"    lmi / {best}: {verdict(ratio, bar)}")


def _print_own(loads: dict[tuple[str, str], list[Load]], stream: Job, lmi: Lmi, seconds: int) -> None:
    print("  lmi's CPU time, server and worker apart:")
    for mode, per in (("plain", 1), ("stream", N_STREAM_TOKENS)):
        runs = loads["lmi", mode]
        unit = "a request" if per == 1 else "a token"
        server_us = median([(load.cpu_s - load.worker_cpu_s) / load.n_requests / per * 1e6 for load in runs])
        worker_us = median([load.worker_cpu_s / load.n_requests / per * 1e6 for load in runs])
        print(f"    {mode:6}: server {server_us:6.1f} us, worker {worker_us:6.1f} us {unit}")
    many = median([load.tokens_per_write for load in loads["lmi", "stream"]])
    one = measure(stream, lmi, 1, seconds)
    print(f"  an engine without delay, which runs ahead of the server: {many:.2f} tokens a write")
    print(f"    and with one connection {_paced(one)}", flush=True)


def _paced(load: Load) -> str:
    rate = load.requests_per_cpu_s * N_STREAM_TOKENS
    return f"{load.tokens_per_write:.2f} tokens a write, {rate:,.0f} streamed tokens a CPU second"


if __name__ == "__main__":
    main()
