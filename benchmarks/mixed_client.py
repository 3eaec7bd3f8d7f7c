# SPDX-License-Identifier: Apache-2.0
"""A client for mixed requests over HTTP, in LMI's schema or OpenAI's completions.

As a program it reads a task, the arguments of ``measure_mix``, from stdin and prints its Timing, both JSON, so that the
client is a process of its own whose CPU time can be told from the server's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import load
from mixed_load import Ask, Heard, Timing, in_turns


def run(url: str, asks: Sequence[Ask], n_at_once: int, model: str = "") -> Timing:
    """Run ``measure_mix`` in a client process of its own."""
    task = {"url": url, "asks": [asdict(ask) for ask in asks], "n_at_once": n_at_once, "model": model}
    return Timing(**load.in_client(__file__, task))


async def measure_mix(url: str, asks: Sequence[dict[str, Any]], n_at_once: int, model: str) -> Timing:
    """Requests of mixed lengths, so many at a time.

    Args:
        url: of LMI's schema, or of OpenAI's completions where it ends so.
        asks: the fields of each Ask.
        n_at_once: clients.
        model: its name, for OpenAI's.
    """
    is_openai = url.endswith("/completions")

    async def hear(ask: Ask) -> Heard:
        body = _openai_request(ask, model) if is_openai else load.request(ask.prompt, ask.n_new_tokens)
        stream = await load.connect(url, body)
        sent_s = time.monotonic()
        stream.send()
        await stream.done
        return _heard_events(stream, sent_s, ask) if is_openai else _heard_lines(stream, sent_s, ask)

    return await in_turns([Ask(**ask) for ask in asks], n_at_once, hear)


def _openai_request(ask: Ask, model: str) -> dict[str, Any]:
    lengths = {"max_tokens": ask.n_new_tokens, "ignore_eos": True, "temperature": 0}
    return {"model": model, "prompt": ask.prompt, **lengths, "stream": True, "stream_options": {"include_usage": True}}


def _heard_lines(stream: load.Stream, sent_s: float, ask: Ask) -> Heard:
    came_s = [at_s for line, at_s in stream.events(b"\n") if b'"token"' in line]
    return _heard(stream, sent_s, ask, came_s, len(came_s))


def _heard_events(stream: load.Stream, sent_s: float, ask: Ask) -> Heard:
    """Events may hold several tokens; the last but one says how many all had."""
    events = stream.events(b"\n\n")
    came_s = [at_s for event, at_s in events if b'"choices":[{' in event]
    usages = [json.loads(event[len(b"data: ") :]) for event, _ in events[-2:-1]]
    return _heard(stream, sent_s, ask, came_s, sum(usage["usage"]["completion_tokens"] for usage in usages))


def _heard(stream: load.Stream, sent_s: float, ask: Ask, came_s: list[float], n_tokens: int) -> Heard:
    if stream.status != 200 or n_tokens != ask.n_new_tokens:
        raise SystemExit(f"a stream of {ask.n_new_tokens} tokens had {n_tokens}: {bytes(stream.body[-300:])!r}")
    return Heard(sent_s=sent_s, arrivals_s=sorted(set(came_s)), n_tokens=n_tokens)


if __name__ == "__main__":
    load.answer(measure_mix(**json.load(sys.stdin)))
