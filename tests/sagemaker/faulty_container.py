# SPDX-License-Identifier: Apache-2.0
"""A small container that keeps every rule of the contract, and breaks those it is told to break.

A fault has the id of the rule that it breaks. It speaks LMI's schema and repeats a word a token; ``faulty_process.py``
runs it as a process.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.sagemaker.faulty_loading import Container, Loading, Refused

TOKEN_S = 0.01
MOST_TOKENS = 20_000
_PREFIX = "x-amzn-sagemaker-"
_EXPIRES = "; Expires=2030-01-01T00:00:00Z"


class Talk(Loading):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        self.content = self._body()
        url = urlsplit(self.path)
        parts = [unquote(each) for each in url.path.strip("/").split("/")]
        name = parts[0].replace("-", "_")
        try:
            known = getattr(self, f"_{name}_", None)
            if known is None:
                status = 200 if self.container.breaks("invocations.knows-no-other-routes") else 404
                raise Refused(status, f"there is no {url.path}")
            known(method, parts[1:], {key: values[0] for key, values in parse_qs(url.query).items()})
        except Refused as refused:
            status, text = refused.args
            self._answer(status, {"message": text})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.container.breaks("invocations.takes-chunked-bodies"):
            self.close_connection = True
            return b""
        content = b""
        while n_bytes := int(self.rfile.readline(), 16):
            content += self.rfile.read(n_bytes)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --------------------------------------------------------------------------------------------------------- routes

    def _ping_(self, method: str, *_: Any) -> None:
        container = self.container
        methods = {"POST": "ping.takes-post", "HEAD": "ping.takes-head"}
        if container.breaks(methods.get(method, "")):
            raise Refused(405, "no")
        if not container.is_ready or container.is_draining:
            raise Refused(204 if container.breaks("process.answers-while-loading") else 503, "loading")
        if container.breaks("ping.answers-within-2s"):
            time.sleep(1)
        if container.breaks("ping.answers-under-load") and container.n_running:
            raise Refused(503, "busy")
        if container.breaks("invocations.stays-healthy") and container.n_insults:
            raise Refused(500, "hurt")
        if container.breaks("multi-model.healthy-without-models") and not container.models:
            raise Refused(503, "no model")
        if container.breaks("multi-model.survives-bad-models") and "bad" in container.models:
            raise Refused(500, "a model is bad")
        self._answer(200, b" " * 5000 if container.breaks("ping.is-small") else {})

    def _metrics_(self, *_: Any) -> None:
        text = f'# TYPE requests_running gauge\nrequests_running{{model="m"}} {self.container.n_running}\n'
        self._answer(200, text.encode(), {"Content-Type": "text/plain"})

    def _execution_parameters_(self, *_: Any) -> None:
        fields: dict[str, Any] = {"MaxConcurrentTransforms": 4, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}
        if self.container.breaks("batch.says-its-parameters"):
            fields["MaxPayloadInMB"] = "6"
        if self.container.breaks("batch.asks-for-what-is-allowed"):
            fields["MaxPayloadInMB"] = 100
        self._answer(200, fields)

    def _invocations_(self, *_: Any) -> None:
        container = self.container
        if container.breaks("process.is-ready-when-it-says-so") and time.monotonic() - container.ready_s < 0.7:
            raise Refused(503, "not yet")
        if container.is_draining and not container.breaks("process.refuses-new-requests"):
            raise Refused(503, "draining")
        with container.runs():
            headers = self._session() if f"{_PREFIX}session-id" in self.headers else {}
            if headers is not None:
                self._generate(headers)

    # ------------------------------------------------------------------------------------------------------- sessions

    def _session(self) -> dict[str, str] | None:
        """Headers for the answer; None where it was given."""
        container, session = self.container, self.headers[f"{_PREFIX}session-id"]
        if session == "NEW_SESSION":
            new = f"session-{len(container.sessions)}"
            container.sessions.add(new)
            end = "" if container.breaks("sessions.tells-id-and-end") else _EXPIRES
            return {f"{_PREFIX}new-session-id": new + end}
        is_path = ".." in session and container.breaks("sessions.ids-are-no-paths")
        if session not in container.sessions and not container.breaks("sessions.unknown-is-refused") and not is_path:
            raise Refused(400, f"there is no session {session}")
        if b"CLOSE" in self.content:
            if not container.breaks("sessions.closed-is-closed"):
                container.sessions.discard(session)
            told = "" if container.breaks("sessions.can-be-closed") else session
            self._answer(200, {}, {f"{_PREFIX}closed-session-id": told})
            return None
        if container.breaks("sessions.can-be-used"):
            raise Refused(500, "lost")
        return {}

    # ----------------------------------------------------------------------------------------------------- generation

    def _generate(self, headers: dict[str, str]) -> None:
        container = self.container
        self._refuse_by_headers()
        fields = self._fields()
        parameters = fields["parameters"]
        n_tokens = parameters.get("max_new_tokens", 16)
        if n_tokens > MOST_TOKENS:
            raise Refused(400, f"max_new_tokens={n_tokens}; this model takes {MOST_TOKENS}")
        word = f"{fields['inputs'].split()[0]} " if fields["inputs"].split() else "x "
        if fields.get("stream"):
            self._stream(word, n_tokens)
            return
        if container.breaks("invocations.answers-many-at-once") and container.n_running > 4:
            raise Refused(500, "too much")
        self._work(n_tokens)
        if container.breaks("invocations.takes-unicode"):
            self._answer(200, b'{"generated_text": "\xff"}')
            return
        named = "application/json"
        if container.breaks("invocations.says-its-content-type", "invocations.honours-accept"):
            named = "text/plain"
        if container.breaks("invocations.keeps-connections"):
            self.close_connection = True
            headers["Connection"] = "close"
        self._answer(200, {"generated_text": word * n_tokens}, {"Content-Type": named, **headers})

    def _work(self, n_tokens: int) -> None:
        for _ in range(n_tokens):
            time.sleep(TOKEN_S)

    def _refuse_by_headers(self) -> None:
        container = self.container
        if container.breaks("invocations.answers-within-60s"):
            raise Refused(500, "no")
        for rule, name in {
            "invocations.ignores-unknown-headers": f"{_PREFIX}something-new",
            "invocations.takes-custom-attributes": f"{_PREFIX}custom-attributes",
            "invocations.takes-inference-id": f"{_PREFIX}inference-id",
        }.items():
            if container.breaks(rule) and name in self.headers:
                raise Refused(400, f"{name} is not known")
        adapter = self.headers.get(f"{_PREFIX}adapter-identifier")
        if adapter and adapter not in container.adapters and not container.breaks("adapters.never-the-base-model"):
            status = 400 if container.breaks("adapters.unknown-is-404") else 404
            raise Refused(status, f"there is no adapter {adapter}")
        if adapter and container.breaks("adapters.registers"):
            raise Refused(500, "the adapter was not loaded after all")

    def _fields(self) -> dict[str, Any]:
        """The fields of the body, which have to be right."""
        container, insult = self.container, self._insult
        named = self.headers.get("Content-Type", "application/json")
        if "json" not in named:
            raise insult("invocations.refuses-unknown-types", 200, 415, f"{named} is not known")
        n_bytes = len(self.content)
        if n_bytes > (1 << 20) and container.breaks("invocations.takes-25-mb"):
            raise Refused(500, "too much")
        if n_bytes > (1 << 20) and container.breaks("invocations.survives-long-texts") and n_bytes < (20 << 20):
            raise Refused(500, "too much")
        if not self.content:
            raise insult("invocations.refuses-empty-bodies", 200, 400, "the body is empty")
        try:
            fields = json.loads(self.content)
        except RecursionError:
            raise insult("invocations.survives-deep-json", 500, 400, "nested too deep") from None
        except ValueError as error:
            raise insult("invocations.refuses-broken-json", 500, 400, f"the body is no JSON: {error}") from None
        if isinstance(fields, list):
            raise insult("invocations.refuses-arrays", 500, 400, "the body is no object")
        return self._judged(fields)

    def _judged(self, fields: dict[str, Any]) -> dict[str, Any]:
        container, insult = self.container, self._insult
        if "inputs" not in fields:
            raise insult("", 0, 400, "inputs is missing")
        if not isinstance(fields["inputs"], str):
            hidden = container.breaks("invocations.names-the-wrong-field")
            text = "a field is wrong" if hidden else "inputs must be a text"
            raise insult("invocations.refuses-wrong-types", 200, 400, text)
        if any("\ud800" <= character <= "\udfff" for character in fields["inputs"]):
            raise insult("invocations.survives-lone-surrogates", 500, 400, "inputs is no text")
        if "model" in fields and not container.breaks("adapters.unknown-model-is-refused"):
            raise Refused(404, f"there is no model {fields['model']}")
        parameters = fields.setdefault("parameters", {})
        temperature = parameters.get("temperature", 1.0)
        if not isinstance(temperature, (int, float)):
            if fields.get("stream") and container.breaks("streaming.refuses-with-a-status"):
                raise Refused(200, "temperature is wrong")
            text = f"temperature={temperature} is no number"
            if container.breaks("invocations.tells-errors-first"):
                text = f"{temperature} is no number for the temperature"
            raise insult("", 0, 400, text)
        return fields

    def _insult(self, rule: str, broken_status: int, status: int, text: str) -> Refused:
        self.container.n_insults += 1
        return Refused(broken_status if self.container.breaks(rule) else status, text)

    def _stream(self, word: str, n_tokens: int) -> None:
        container = self.container
        is_at_once = container.breaks("streaming.comes-piece-by-piece")
        named = "application/json" if container.breaks("streaming.says-its-content-type") else "application/jsonlines"
        if is_at_once:
            self._work(n_tokens)
        self.send_response(200)
        self.send_header("Content-Type", named)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        lines = [self._line(word, is_last=position == n_tokens - 1) for position in range(n_tokens)]
        try:
            for chunk in [b"".join(lines)] if is_at_once else lines:
                if not is_at_once:
                    time.sleep(TOKEN_S)
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            if container.breaks("streaming.stops-for-nobody"):
                self._work(n_tokens)
            self.close_connection = True

    def _line(self, word: str, *, is_last: bool) -> bytes:
        fields: dict[str, Any] = {"token": {"text": word}}
        if is_last and not self.container.breaks("streaming.marks-its-end"):
            fields["generated_text"] = word
        line = json.dumps(fields, ensure_ascii=False).encode()
        if self.container.breaks("streaming.keeps-characters-whole"):
            line = line.replace("日".encode(), "日".encode()[:2])
        return line + b"\n"


class _Threads(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that left is no error."""


class _OneByOne(HTTPServer):
    """Takes one connection at a time, and lets hardly any wait."""

    request_queue_size = 0

    def handle_error(self, *_: Any) -> None:
        """As above."""


def server_of(container: Container, port: int) -> HTTPServer:
    kind = _OneByOne if container.breaks("ping.connects-under-load") else _Threads
    talk = type("Talk", (Talk,), {"container": container})
    if container.breaks("invocations.speaks-http-1-1"):
        talk.protocol_version = "HTTP/1.0"
    return kind(("127.0.0.1", port), talk)


@contextlib.contextmanager
def running(fault: str = "") -> Iterator[str]:
    """A container in a thread of this process, ready; gives its URL."""
    with served(server_of(Container(fault), 0)) as url:
        yield url


@contextlib.contextmanager
def served(server: HTTPServer) -> Iterator[str]:
    """A server in a thread of this process; gives its URL."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
