# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the ``docker`` program, whose one image is the container of the tests.

As with the real one the container is no child of this process, has the variables that ``-e`` names and no others, gets
the SIGTERM that is sent here, and lives on when this process is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

CONTAINER = Path(__file__).resolve().with_name("container.py")


def main() -> None:
    """``docker run --rm -p HOST:8080 [-e NAME[=VALUE]] IMAGE ARGUMENTS``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--rm", action="store_true", required=True)
    parser.add_argument("-p", dest="ports", required=True)
    parser.add_argument("-e", dest="environ", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    host, _, inner = asked.ports.rpartition(":")
    assert inner == "8080"
    assert asked.arguments.pop(0) == "serve"
    pairs = [each.partition("=") for each in asked.environ]
    environ = {name: value if mark else os.environ[name] for name, mark, value in pairs if mark or name in os.environ}
    sys.exit(run([sys.executable, str(CONTAINER), "--port", host.rpartition(":")[2], *asked.arguments], environ))


def run(words: list[str], environ: dict[str, str]) -> int:
    """The exit code of a process of somebody else's, to which signals are passed on."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            child = subprocess.Popen(words, env=environ)
            os.write(writer, f"{child.pid}\n".encode())
            os.write(writer, f"{child.wait()}\n".encode())
        os._exit(0)
    os.wait()
    os.close(writer)
    with os.fdopen(reader) as told:
        pid = int(told.readline())
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
        return int(told.readline())


if __name__ == "__main__":
    main()
