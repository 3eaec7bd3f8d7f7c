# SPDX-License-Identifier: Apache-2.0
"""What vLLM's processes log, followed: how far the load is, and the last errors before a death."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import socketserver
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmi.api import Progress

_CONFIG_PATH = "VLLM_LOGGING_CONFIG_PATH"
_N_WORDS = 6
_WORD_CHARS = 300
_BURST_S = 10.0
_DUMPS = "Dumping "
"""How the records begin that show vLLM's whole configuration and state."""
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|Cannot allocate memory|No available memory|KV cache is needed|Free memory on device",
    re.IGNORECASE,
)
_HEADER = struct.Struct(">L")

_STAGES = tuple(
    (re.compile(pattern), stage)
    for pattern, stage in (
        (r"Initializing a V1 LLM engine", "start vllm's engine"),
        (r"Starting to load model", "load weights"),
        (r"Loading weights took|Model loading took", "prepare the cache"),
        (r"Dynamo bytecode|Compiling a graph|torch\.compile takes", "compile"),
        (r"KV cache size|Available KV cache memory|CPU KV cache", "prepare the cache"),
        (r"[Cc]aptur\w+ CUDA graph|Graph capturing", "capture graphs"),
        (r"[Ww]arm\w* up|Warming up", "warm up"),
        (r"init engine .*took", "vllm's engine runs"),
    )
)
"""Texts of vLLM 0.32's log -> the stage that they begin. A text that changed costs a stage, nothing else."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException, words: str = "") -> bool:
    """Whether memory ran out, as far as texts tell: vLLM's processes send no more.

    Args:
        error: what was raised.
        words: what was logged.
    """
    return isinstance(error, MemoryError) or _NO_MEMORY.search(f"{error} {words}") is not None


class LastWords:
    """The last errors that vLLM's processes logged, each with the end of its traceback: what one death left behind."""

    def __init__(self) -> None:
        self._said: deque[tuple[float, str]] = deque(maxlen=_N_WORDS)

    def add(self, record: logging.LogRecord) -> None:
        first = record.getMessage().strip().partition("\n")[0]
        if first.startswith(_DUMPS):
            return
        last = (record.exc_text or "").strip().rpartition("\n")[2]
        line = " | ".join(filter(None, (first[:_WORD_CHARS], last[:_WORD_CHARS])))
        if line and line not in (text for _, text in self._said):
            self._said.append((record.created, line))

    @property
    def text(self) -> str:
        """In the order they were said: the first one is the nearest to the cause."""
        newest_s = self._said[-1][0] if self._said else 0.0
        return "; ".join(text for said_s, text in self._said if newest_s - said_s <= _BURST_S)


class Messages:
    """A socket to which every process of vLLM's sends its log records, beside printing them.

    vLLM starts its processes itself, and they take their logging from a file named by VLLM_LOGGING_CONFIG_PATH; an
    environment with a configuration of its own is left as it is, and then nothing is known but what vLLM raises.

    Args:
        progress: told when a new stage of loading begins.
    """

    def __init__(self, progress: Progress) -> None:
        self.words = LastWords()
        self._progress: Progress | None = progress
        self._folder: Path | None = None
        self._stage = ""

    def listen(self) -> None:
        """Begin, before vLLM is imported."""
        if os.environ.get(_CONFIG_PATH) or os.environ.get("VLLM_CONFIGURE_LOGGING", "1") == "0":
            return
        self._folder = folder = Path(tempfile.mkdtemp(prefix="lmi-vllm-"))
        address, config = folder / "log", folder / "logging.json"
        server = _Server(str(address), _Connection)
        server.take = self._take
        level = os.environ.get("VLLM_LOGGING_LEVEL", "INFO").upper()
        config.write_text(json.dumps(_logging_config(str(address), level)))
        os.environ[_CONFIG_PATH] = str(config)
        threading.Thread(target=server.serve_forever, name="vllm-log", daemon=True).start()

    def loaded(self) -> None:
        """The load ended: from now on only errors count. Every process is connected, and needs no file any more."""
        self._progress = None
        if self._folder is not None:
            os.environ.pop(_CONFIG_PATH, None)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.words.add(record)
        progress = self._progress
        if progress is None:
            return
        text = record.getMessage()
        stage = next((stage for pattern, stage in _STAGES if pattern.search(text)), self._stage)
        if stage != self._stage:
            self._stage = stage
            progress(stage)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    take: Callable[[logging.LogRecord], None]


class _PlainValues(pickle.Unpickler):
    """A record's fields are texts and numbers; whatever needs a class is not read."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is in a log record")


class _Connection(socketserver.StreamRequestHandler):
    """One process that logs: records as ``logging.handlers.SocketHandler`` sends them."""

    server: _Server

    def handle(self) -> None:
        while len(header := self.rfile.read(_HEADER.size)) == _HEADER.size:
            (n_bytes,) = _HEADER.unpack(header)
            content = self.rfile.read(n_bytes)
            if len(content) < n_bytes:  # killed in the middle of it
                return
            with contextlib.suppress(pickle.UnpicklingError):
                self.server.take(logging.makeLogRecord(_PlainValues(io.BytesIO(content)).load()))


def _logging_config(address: str, level: str) -> dict[str, object]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lmi": {"format": "%(processName)s: %(levelname)s %(message)s"}},
        "handlers": {
            "printed": {
                "class": "logging.StreamHandler", "formatter": "lmi", "level": level, "stream": "ext://sys.stderr",
            },
            "followed": {"class": "logging.handlers.SocketHandler", "host": address, "port": None, "level": "INFO"},
        },
        "loggers": {"vllm": {"handlers": ["printed", "followed"], "level": level, "propagate": False}},
    }  # fmt: skip
