# SPDX-License-Identifier: Apache-2.0
"""The container of ``faulty_container.py`` as a process: ``python faulty_process.py [--fault ID] [serve]``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import HTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.sagemaker.faulty_container import server_of
from tests.sagemaker.faulty_loading import Container

LOAD_S = 0.3


def main() -> None:
    """Run it as a process, as a container's first one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="")
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--model-folder", type=Path)
    parser.add_argument("word", nargs="?")
    asked = parser.parse_args()
    fault = asked.fault
    if asked.broken:
        _fail_to_load(fault)
    if fault == "process.becomes-ready" or (fault == "process.takes-serve" and asked.word == "serve"):
        sys.exit("cannot start")
    if fault == "process.leaves-the-model-alone":
        (asked.model_folder / "cache").write_text("x")
    container = Container(fault, is_ready=False)
    if fault in ("process.ends-on-sigterm", "process.ends-while-loading"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fault == "process.binds-early":
        time.sleep(1.5)
    port = int(os.environ["SAGEMAKER_BIND_TO_PORT"])
    if fault == "process.connects-while-loading":
        _open_and_close(port)
    server = server_of(container, 0 if fault == "process.binds-the-port-it-is-told" else port)
    _other = _other_port() if fault == "process.opens-no-other-ports" else None
    threading.Thread(target=_get_ready, args=(container,), daemon=True).start()
    if fault == "process.leaves-nothing-behind":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_drain, args=(container, server)).start())
    server.serve_forever(0.05)
    sys.stdout.flush()
    os._exit(7 if fault == "process.exits-with-0" else 0)


def _get_ready(container: Container) -> None:
    if not container.breaks("process.is-ready-when-it-says-so"):
        time.sleep(LOAD_S)
    container.is_ready, container.ready_s = True, time.monotonic()


def _drain(container: Container, server: HTTPServer) -> None:
    container.is_draining = True
    if not container.breaks("process.finishes-requests"):
        end_s = time.monotonic() + 20
        time.sleep(0.3)
        while container.n_running and time.monotonic() < end_s:
            time.sleep(0.02)
        time.sleep(0.2)
    server.shutdown()


def _fail_to_load(fault: str) -> None:
    if fault == "process.broken-model-ends":
        time.sleep(60)
    print("starting" if fault == "process.broken-model-is-named" else "error: model.safetensors is missing")
    sys.exit(3)


def _open_and_close(port: int) -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", port))
        first.listen(64)
        time.sleep(0.5)
    time.sleep(0.5)


def _other_port() -> socket.socket:
    other = socket.socket()
    other.bind(("0.0.0.0", 0))
    other.listen(1)
    return other


if __name__ == "__main__":
    main()
