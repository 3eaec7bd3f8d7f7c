# SPDX-License-Identifier: Apache-2.0
"""A little hub of the tests' own: the part of its protocol that listing, ranged reads and fetching use."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A model on the hub.

    Args:
        files: name -> content.
        revisions: branches and tags; each is the one commit there is.
        refusal: what the hub says of it, as its header ``X-Error-Code`` has it; empty where it lets everybody in.
        is_gated: the listing may be seen, the files only with the token ``good``.
    """

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    refusal: str = ""
    is_gated: bool = False


@dataclass
class Hub:
    """What the tests set and see.

    Args:
        repositories: by id.
        url: of the server.
        asked: method, path and range of every request.
        failing: statuses that the next requests get instead of an answer.
        cut_bytes: after so many bytes of a file the connection is cut, once; 0 for never.
        has_ranges: whether it answers ranges with ranges.
    """

    repositories: dict[str, Repository]
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    cut_bytes: int = 0
    has_ranges: bool = True

    def bytes_asked(self) -> list[str]:
        """The ranges of files that were read."""
        return [part for method, path, part in self.asked if method == "GET" and "/resolve/" in path]


class _Answers(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.failing:
            self._answer(b"", self.hub.failing.pop(0), {"Retry-After": "0"})
            return
        parts = path.removeprefix("api/models/").split("/")
        model_id, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get(model_id)
        if repository is None:
            # As the hub does: whoever has no token is not told whether there is such a model.
            self._answer(b"", 404 if self._token() else 401, {"X-Error-Code": "RepoNotFound"})
        elif repository.refusal:
            self._answer(b"", 403, {"X-Error-Code": repository.refusal})
        elif len(rest) > 1 and rest[0] in ("revision", "tree", "resolve") and not self._has(repository, rest[1]):
            self._answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["resolve"]:
            self._file(repository, "/".join(rest[2:]))
        elif rest[:1] == ["tree"]:
            self._json([_described(name, content) for name, content in repository.files.items()])
        else:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in repository.files.items()]
            gated = "manual" if repository.is_gated else False
            self._json({"id": model_id, "sha": SHA, "siblings": siblings, "gated": gated})

    do_HEAD = do_GET

    def _has(self, repository: Repository, revision: str) -> bool:
        return revision in (SHA, *repository.revisions)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _file(self, repository: Repository, name: str) -> None:
        content = repository.files.get(name)
        if content is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        if repository.is_gated and self._token() != "good":
            self._answer(b"", 403, {"X-Error-Code": "GatedRepo"})
            return
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": SHA,
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first or not self.hub.has_ranges:
            self._answer(content, 200, headers)
            return
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._answer(part, 206, headers)

    def _json(self, content: object) -> None:
        self._answer(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def _answer(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut_bytes and "X-Repo-Commit" in headers and len(body) > self.hub.cut_bytes:
            body, self.hub.cut_bytes, self.close_connection = body[: self.hub.cut_bytes], 0, True
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _described(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def started_hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """A running hub with these models; its variable is HF_ENDPOINT."""
    hub = Hub(repositories)
    answers = type("Answers", (_Answers,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
