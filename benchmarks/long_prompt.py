# SPDX-License-Identifier: Apache-2.0
"""How long a prompt of 30,000 tokens holds up the streams of others, on each route that takes one.

An engine that echoes steps every 10 ms behind the demo model's tokenizer; one client follows a stream while another
sends the long prompt. Printed: the longest gap between two pieces of the stream while the prompt was answered, beside
longest one of a time as long with nothing else to do; medians over the rounds. Bar: 50 ms. Run: make bench-long.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from processes import Lmi, demo_model, machine, median, verdict

BAR_MS = 50.0
STEP_MS = 10
WORDS = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "

PLUGIN = """
from dataclasses import replace
import lmi_echo
from lmi.api import hookimpl
from lmi_echo import lmi_config_type, lmi_load_engine

@hookimpl
def lmi_describe_backend():
    return replace(lmi_echo.lmi_describe_backend(), name="echoing", needs_model=True, artifact_formats=("pretrained",))
"""


def bodies(n_tokens: int) -> dict[str, dict[str, Any]]:
    """Route -> a request with a prompt of about so many tokens."""
    text = WORDS * (n_tokens // 18)
    one = [{"role": "user", "content": text}]
    n_chars = len(text)
    many, very_many = (
        [
            {
                "role": ("user", "assistant")[index % 2],
                "content": text[n_chars * index // n : n_chars * (index + 1) // n],
            }
            for index in range(n)
        ]
        for n in (101, 5001)
    )
    return {
        "/invocations": {"inputs": text, "parameters": {"max_new_tokens": 1}},
        "/v1/completions": {"prompt": text, "max_tokens": 1},
        "/v1/chat/completions": {"messages": one, "max_tokens": 1},
        "/v1/chat/completions (101 messages)": {"messages": many, "max_tokens": 1},
        "/v1/chat/completions (5001 messages)": {"messages": very_many, "max_tokens": 1},
        "/tokenize": {"prompt": text},
    }


def post(url: str, body: dict[str, Any]) -> None:
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            response.read()
    except HTTPError as error:
        raise SystemExit(f"{url}: {error.read()[:400]!r}") from None


@contextlib.contextmanager
def echoing() -> Iterator[Lmi]:
    """A server with the demo model's text, and an engine that echoes instead of its weights."""
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "echo_of_models.py").write_text(PLUGIN)
        record = Path(site) / "echo_of_models-1.dist-info"
        record.mkdir()
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-of-models\nVersion: 1\n")
        (record / "entry_points.txt").write_text("[lmi.backends]\nechoing = echo_of_models\n")
        path = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")]))
        settings = ("rolling_batch=echoing", f"step_delay_ms={STEP_MS}", "max_model_len=160000")
        words = (word for each in settings for word in ("-o", each))
        with Lmi(demo_model(), *words, environ={**os.environ, "PYTHONPATH": path}) as lmi:
            yield lmi


class Listener:
    """Follows one stream for ever, and knows when its pieces came."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
        body = json.dumps({"inputs": "x", "stream": True, "parameters": {"max_new_tokens": 30000}}).encode()
        head = f"POST /invocations HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self._connection.sendall(head + body)
        self.arrivals_s: list[float] = []
        threading.Thread(target=self._follow, daemon=True).start()
        while len(self.arrivals_s) < 20:
            time.sleep(0.01)

    def _follow(self) -> None:
        while self._connection.recv(1 << 16):
            self.arrivals_s.append(time.perf_counter())

    def longest_gap_ms(self, from_s: float, to_s: float) -> float:
        """Between two pieces, of those that came in a time."""
        within = [each for each in list(self.arrivals_s) if from_s - 0.05 <= each <= to_s + 0.05]
        return 1e3 * max((b - a for a, b in itertools.pairwise(within)), default=float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=30_000, help="of the long prompt, about")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each")
    options = parser.parse_args()
    print(machine())
    with echoing() as lmi:
        listener = Listener(lmi.url)
        print(f"{'route':38} {'answered ms':>11} {'gap alone':>10}  gap beside it, ms")
        for route, body in bodies(options.tokens).items():
            took, alone, beside = [], [], []
            for _ in range(options.rounds):
                begin_s = time.perf_counter()
                post(lmi.url + route.partition(" ")[0], body)
                end_s = time.perf_counter()
                time.sleep(0.1)
                took.append(1e3 * (end_s - begin_s))
                beside.append(listener.longest_gap_ms(begin_s, end_s))
                begin_s = time.perf_counter()
                time.sleep(end_s - begin_s if end_s > begin_s else took[-1] / 1e3)
                end_s = time.perf_counter()
                time.sleep(0.1)
                alone.append(listener.longest_gap_ms(begin_s, end_s))
            told = verdict(median(beside), BAR_MS, at_most=True)
            print(f"{route:38} {median(took):11.0f} {median(alone):10.1f}  {told}, worst {max(beside):.1f}", flush=True)


if __name__ == "__main__":
    main()
