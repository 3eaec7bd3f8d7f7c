# SPDX-License-Identifier: Apache-2.0
"""What the small container of ``faulty_container.py`` knows, and how it loads adapters and models."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class Refused(Exception):
    """A request that is refused: status and text."""


class Container:
    """What the container knows; ``is_ready`` is set when it has loaded."""

    def __init__(self, fault: str = "", *, is_ready: bool = True) -> None:
        self.fault = fault
        self.is_ready = is_ready
        self.is_draining = False
        self.ready_s = time.monotonic()
        self.n_running = 0
        self.n_insults = 0
        self.lock = threading.Lock()
        self.adapters: dict[str, str] = {}
        self.models: dict[str, str] = {}
        self.sessions: set[str] = set()

    def breaks(self, *rules: str) -> bool:
        return bool(self.fault) and self.fault in rules

    @contextlib.contextmanager
    def runs(self) -> Iterator[None]:
        with self.lock:
            self.n_running += 1
        try:
            yield
        finally:
            with self.lock:
                self.n_running -= 1


class Loading(BaseHTTPRequestHandler):
    """The routes that load and unload; the rest of them is in ``faulty_container.py``."""

    container: Container
    content: bytes

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raise NotImplementedError

    def _generate(self, headers: dict[str, str]) -> None:
        raise NotImplementedError

    def _adapters_(self, method: str, parts: list[str], query: dict[str, str]) -> None:
        container = self.container
        if method == "GET":
            shown = [] if container.breaks("adapters.lists") else sorted(container.adapters)
            self._answer(200, {"adapters": shown})
        elif method == "DELETE":
            if parts[0] not in container.adapters:
                raise Refused(404, "there is no such adapter")
            if not container.breaks("adapters.forgets"):
                del container.adapters[parts[0]]
            self._answer(200, {})
        else:
            asked = query if not container.breaks("adapters.registers-by-query") else {}
            fields = json.loads(self.content) if self.content else asked
            name, source = fields.get("name", ""), fields.get("src", "")
            if name in container.adapters and not container.breaks("adapters.refuses-duplicates"):
                raise Refused(409, "it is there")
            if not source or (not Path(source).is_dir() and not container.breaks("adapters.refuses-bad-sources")):
                raise Refused(400, f"src={source!r} is not there")
            container.adapters[name] = source
            self._answer(200, {})

    def _models_(self, method: str, parts: list[str], _: dict[str, str]) -> None:
        container = self.container
        if method == "POST" and not parts:
            self._load(**json.loads(self.content))
        elif not parts:
            key = "models" if not container.breaks("multi-model.lists") else "loaded"
            listed = [{"modelName": name, "modelUrl": folder} for name, folder in container.models.items()]
            self._answer(200, {key: listed})
        elif parts[0] not in container.models:
            broken = "multi-model.invokes" if method == "POST" else "multi-model.describes" if method == "GET" else ""
            raise Refused(500 if container.breaks(broken) else 404, f"there is no model {parts[0]}")
        elif method == "POST":
            self._generate({})
        else:
            if method == "DELETE" and not container.breaks("multi-model.unloads"):
                del container.models[parts[0]]
            self._answer(200, {"modelName": parts[0], "modelUrl": container.models.get(parts[0], "")})

    def _load(self, model_name: str = "", url: str = "") -> None:
        container = self.container
        if container.breaks("multi-model.loads"):
            raise Refused(500, "no")
        if container.breaks("multi-model.loads-several") and container.models and model_name not in container.models:
            raise Refused(500, "one is enough")
        if model_name in container.models and not container.breaks("multi-model.refuses-duplicates"):
            raise Refused(409, "it is there")
        if not url or not Path(url).is_dir():
            if container.breaks("multi-model.survives-bad-models"):
                container.models["bad"] = url
            raise Refused(400, f"there is no folder {url}")
        container.models[model_name] = url
        self._answer(200, {})
