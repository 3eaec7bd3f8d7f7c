# SPDX-License-Identifier: Apache-2.0
"""A container for tests, as a program of its own: it does what a request's body says, right or wrong.

It binds SAGEMAKER_BIND_TO_PORT, and needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PREFIX = "X-Amzn-SageMaker-"
TIMES = {"healthy": 0.0, "ping_takes_s": 0.0}
SESSIONS: set[str] = set()
MODELS: dict[str, str] = {}
ADAPTERS: dict[str, str] = {}
LOG: list[str] = []


class Container(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    flags: argparse.Namespace

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/ping":
            time.sleep(TIMES["ping_takes_s"])
            self.answer(200 if time.monotonic() >= TIMES["healthy"] else 503, b"")
        elif self.path == "/models" and self.flags.n_models:
            models = [{"modelName": name, "modelUrl": url} for name, url in MODELS.items()]
            self.answer(200, json.dumps({"models": models}).encode())
        else:
            self.answer(404, b"no such route")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/invocations":
            self.invoke(body)
        elif self.path == "/models" and self.flags.n_models:
            self.load(json.loads(body))
        elif self.path.startswith("/models/") and self.path.endswith("/invoke"):
            self.invoke_model(self.path.split("/")[2])
        elif self.path == "/adapters" and not self.flags.no_adapters:
            wanted = json.loads(body)
            ADAPTERS[wanted["name"]] = wanted["src"]
            self.answer(200, b"{}")
        else:
            self.answer(404, b"no such route")

    def do_DELETE(self) -> None:
        LOG.append(f"unload {self.path.split('/')[2]}")
        is_known = MODELS.pop(self.path.split("/")[2], None)
        time.sleep(self.flags.unload_takes_s)
        self.answer(200 if is_known else 404, b"")

    # ---------------------------------------------------------------------------------------------------- invocations

    def invoke(self, body: bytes) -> None:
        if self.headers.get(f"{PREFIX}Session-Id") == "NEW_SESSION":
            self.open_session(body)
            return
        try:
            wanted = json.loads(body)
        except ValueError:
            wanted = {}
        if not isinstance(wanted, dict):
            wanted = {}
        getattr(self, f"do_{wanted.get('do', 'tell')}")(**wanted.get("with", {}))

    def do_tell(self, back: dict[str, str] | None = None) -> None:
        """What came here, and what is known."""
        told = {"headers": list(self.headers.items()), "pid": os.getpid(), "environ": dict(os.environ),
                "folder": str(Path.cwd()), "adapters": ADAPTERS, "log": LOG}  # fmt: skip
        self.answer(200, json.dumps(told).encode(), back)

    def do_sleep(self, seconds: float) -> None:
        LOG.append("asleep")
        time.sleep(seconds)
        self.answer(200, b"awake")

    def do_fail(self, status: int, text: str) -> None:
        self.answer(status, text.encode())

    def do_grow(self, n_bytes: int) -> None:
        self.answer(200, b"x" * n_bytes)

    def do_stream(
        self, parts: list[str], every_s: float = 0.0, end: str = "", after_s: float = 0.0, back: Any = None
    ) -> None:
        time.sleep(after_s)
        try:
            self.stream(parts, every_s, end, back or {})
        except OSError:
            LOG.append("the client left")
            self.close_connection = True

    def stream(self, parts: list[str], every_s: float, end: str, back: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in back.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/jsonlines")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            self.wfile.write(f"{len(part.encode()):x}\r\n{part}\r\n".encode())
            self.wfile.flush()
            time.sleep(every_s)
        if end == "die":
            os._exit(3)
        if end == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def do_die(self) -> None:
        os._exit(4)

    def do_be_ill(self, seconds: float) -> None:
        TIMES["healthy"] = time.monotonic() + seconds
        self.answer(200, b"")

    def do_ping_slowly(self, seconds: float) -> None:
        TIMES["ping_takes_s"] = seconds
        self.answer(200, b"")

    def do_close(self) -> None:
        session = self.headers[f"{PREFIX}Session-Id"]
        SESSIONS.discard(session)
        self.answer(200, b"closed", {f"{PREFIX}Closed-Session-Id": session})

    def open_session(self, body: bytes) -> None:
        if body == b"refuse":
            self.answer(400, b"no sessions here")
            return
        name = f"session-{os.getpid()}-{len(SESSIONS)}"
        SESSIONS.add(name)
        headers = {
            "none": {},
            "bare": {f"{PREFIX}New-Session-Id": name},
            "over": {f"{PREFIX}New-Session-Id": f"{name}; Expires=2020-01-02T03:04:05Z"},
        }
        right = {f"{PREFIX}New-Session-Id": f"{name}; Expires=2126-01-02T03:04:05Z"}
        self.answer(200, b"opened", headers.get(body.decode(), right))

    # ------------------------------------------------------------------------------------------------------ many models

    def load(self, wanted: dict[str, str]) -> None:
        time.sleep(self.flags.load_takes_s)
        if wanted["model_name"] in MODELS:
            self.answer(409, b"it is loaded")
        elif len(MODELS) >= self.flags.n_models:
            self.answer(507, b"no room")
        elif not (Path(wanted["url"]) / "words.txt").is_file():
            self.answer(400, b"the model has no words.txt")
        else:
            MODELS[wanted["model_name"]] = wanted["url"]
            LOG.append(f"load {wanted['model_name']}")
            self.answer(200, b"{}")

    def invoke_model(self, name: str) -> None:
        if name not in MODELS:
            self.answer(404, b"not loaded")
            return
        told = {"words": (Path(MODELS[name]) / "words.txt").read_text(), "name": name, "url": MODELS[name],
                "target": self.headers[f"{PREFIX}Target-Model"], "log": LOG}  # fmt: skip
        self.answer(200, json.dumps(told).encode())

    # ------------------------------------------------------------------------------------------------------------- wire

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--healthy-after-s", type=float, default=0.0)
    parser.add_argument("--ping-takes-s", type=float, default=0.0)
    parser.add_argument("--ignores-sigterm", action="store_true")
    parser.add_argument("--ends-with", type=int, default=None)
    parser.add_argument("--one-at-a-time", action="store_true", help="and no queue before it")
    parser.add_argument("--n-models", type=int, default=0)
    parser.add_argument("--load-takes-s", type=float, default=0.0)
    parser.add_argument("--unload-takes-s", type=float, default=0.0)
    parser.add_argument("--no-adapters", action="store_true")
    parser.add_argument("--port", type=int, default=int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "0")))
    Container.flags = flags = parser.parse_args()
    if flags.ends_with is not None:
        print("this model is broken")
        sys.exit(flags.ends_with)
    if flags.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    TIMES.update(healthy=time.monotonic() + flags.healthy_after_s, ping_takes_s=flags.ping_takes_s)
    kind: Any = HTTPServer if flags.one_at_a_time else ThreadingHTTPServer
    kind.request_queue_size = 0 if flags.one_at_a_time else 512
    if flags.one_at_a_time:
        Container.protocol_version = "HTTP/1.0"
    server = kind(("127.0.0.1", flags.port), Container)
    if not flags.ignores_sigterm:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.daemon_threads = False  # the end waits for running requests
    print(f"container on port {server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.02)
    server.server_close()


if __name__ == "__main__":
    main()
