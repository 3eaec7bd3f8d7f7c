# SPDX-License-Identifier: Apache-2.0
"""A small client for streams of JSON lines: asyncio, one connection a stream, a time stamp a line.

As a program, ``python benchmarks/load.py`` reads a task from stdin and prints its Result, both JSON, so that the client
is a process of its own whose CPU time can be told from the server's.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

_POLL_S = 0.01


class Stream(asyncio.Protocol):
    """One streamed answer while it comes.

    Attributes:
        status: of the answer; 0 before it.
        line_times_s: when each line came (time.monotonic).
        reads: after each read, how many bytes of the body there were, and when.
        body: what came so far, without the chunks' framing.
    """

    def __init__(self, host: str, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self._request = f"{head}\r\n\r\n".encode() + body
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.line_times_s: list[float] = []
        self.reads: list[tuple[int, float]] = []
        self.body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        """Send the request; the connection was made before."""
        assert self._transport is not None
        self._transport.write(self._request)

    def close(self) -> None:
        """Leave, whether or not the answer is whole."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self.reads.append((len(self.body), time.monotonic()))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the connection closed in the middle of the answer"))

    def on_body(self, part: bytes) -> None:
        self.status = self._parser.get_status_code()
        self.line_times_s += [time.monotonic()] * part.count(b"\n")
        self.body += part

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self.done.done():
            self.done.set_result(None)
        self.close()

    @property
    def n_lines(self) -> int:
        return len(self.line_times_s)

    def events(self, separator: bytes) -> list[tuple[bytes, float]]:
        """What is between the separators, each with the moment in which its last byte came."""
        events, reads, end = [], iter(self.reads), 0
        n_read, read_s = next(reads)
        for part in bytes(self.body).split(separator)[:-1]:
            end += len(part) + len(separator)
            while n_read < end:
                n_read, read_s = next(reads)
            events.append((part, read_s))
        return events

    def lines(self) -> list[Any]:
        """All lines, parsed.

        Raises:
            ValueError: one is not JSON.
        """
        return [json.loads(line) for line in self.body.splitlines()]


async def connect(url: str, body: Any) -> Stream:
    """A connection whose request is written but not sent."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    encoded = json.dumps(body).encode()
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Stream(host, parts.path, encoded), host, port)
    return stream


async def fetch(url: str, bodies: Sequence[Any], n_at_once: int) -> list[Stream]:
    """Whole answers, in order, at most so many at the same time."""
    slots = asyncio.Semaphore(n_at_once)

    async def one(body: Any) -> Stream:
        async with slots:
            stream = await connect(url, body)
            stream.send()
            await stream.done
            return stream

    return await asyncio.gather(*map(one, bodies))


# ------------------------------------------------------------------------------------------------------------ measured


@dataclass(kw_only=True)
class Result:
    """What a task measured.

    Args:
        tokens_per_s: over all streams, from the first request to the last token; of the short streams while no prompt
            is read beside them.
        first_token_s: median over the streams; of the long prompt where there is one.
        beside_tokens_per_s: of the short streams while the long prompt was read.
        client_cpu_share: CPU seconds of this client a second.
    """

    tokens_per_s: float
    first_token_s: float
    beside_tokens_per_s: float = 0.0
    client_cpu_share: float = 0.0


def request(prompt: str, max_new_tokens: int) -> dict[str, Any]:
    parameters = {"max_new_tokens": max_new_tokens, "ignore_eos_token": True}
    return {"inputs": prompt, "parameters": parameters, "stream": True}


async def measure_streams(url: str, prompts: Sequence[str], max_new_tokens: int) -> Result:
    """All prompts at once, each to its end."""
    streams = [await connect(url, request(prompt, max_new_tokens)) for prompt in prompts]
    started_s = time.monotonic()
    for stream in streams:
        stream.send()
    await asyncio.gather(*(stream.done for stream in streams))
    for stream in streams:
        n_tokens = sum("token" in line for line in stream.lines())
        if stream.status != 200 or n_tokens != max_new_tokens:
            raise SystemExit(f"a stream of {max_new_tokens} tokens had {n_tokens}: {bytes(stream.body[-300:])!r}")
    elapsed_s = max(stream.line_times_s[-1] for stream in streams) - started_s
    first_s = sorted(stream.line_times_s[0] - started_s for stream in streams)
    return Result(
        tokens_per_s=len(prompts) * max_new_tokens / elapsed_s,
        first_token_s=first_s[len(first_s) // 2],
    )


async def measure_beside(url: str, prompts: Sequence[str], long_prompt: str, n_window_tokens: int) -> Result:
    """Short streams, then a long prompt beside them, then the short streams alone again; all are left unfinished."""
    streams = [await connect(url, request(prompt, 1024)) for prompt in prompts]
    long = await connect(url, request(long_prompt, 8))
    for stream in streams:
        stream.send()
    await _until_lines(streams, 8)
    before_s = time.monotonic()
    await _until_lines(streams, 8 + n_window_tokens)
    sent_s = time.monotonic()
    long.send()
    await _until_lines([long], 1)
    first_s = long.line_times_s[0]
    long.close()
    # The window after it begins where the last step with a piece of the prompt has ended for all streams.
    n_lines = max(stream.n_lines for stream in streams)
    await _until_lines(streams, n_lines + 2)
    after_s = time.monotonic()
    await _until_lines(streams, n_lines + 2 + n_window_tokens)
    end_s = time.monotonic()
    for stream in (*streams, long):
        stream.close()
        stream.done.cancel()
    alone = [_rate(streams, before_s, sent_s), _rate(streams, after_s, end_s)]
    return Result(
        tokens_per_s=sum(alone) / 2,
        first_token_s=first_s - sent_s,
        beside_tokens_per_s=_rate(streams, sent_s, first_s),
    )


async def _until_lines(streams: Sequence[Stream], n_lines: int) -> None:
    while any(stream.n_lines < n_lines for stream in streams):
        for stream in streams:
            if stream.done.done():
                raise SystemExit(f"a stream ended after {stream.n_lines} lines: {bytes(stream.body[-300:])!r}")
        await asyncio.sleep(_POLL_S)


def _rate(streams: Sequence[Stream], first_s: float, last_s: float) -> float:
    n_lines = sum(first_s < at_s <= last_s for stream in streams for at_s in stream.line_times_s)
    return n_lines / (last_s - first_s)


def run(**task: Any) -> Result:
    """Run a task, the arguments of one of the two functions above, in a client process of its own."""
    return Result(**in_client(__file__, task))


def in_client(program: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a client program of this kind answers to a task."""
    command = [sys.executable, program]
    done = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    task = json.load(sys.stdin)
    answer(measure_beside(**task) if "long_prompt" in task else measure_streams(**task))


def answer(measuring: Coroutine[Any, Any, Any]) -> None:
    """Measure, and print the dataclass that comes of it with this client's share of a core."""
    used_s, started_s = _cpu_s(), time.monotonic()
    result = uvloop.run(measuring)
    result.client_cpu_share = (_cpu_s() - used_s) / (time.monotonic() - started_s)
    print(json.dumps(asdict(result)))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
