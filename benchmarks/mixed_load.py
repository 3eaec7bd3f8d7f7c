# SPDX-License-Identifier: Apache-2.0
"""Requests of mixed lengths, so many at a time, and what a client hears of them: the same in every process.

Needs nothing but Python, so that it also runs in an engine's own environment.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Args:
        prompt: its text.
        ids: the same as token ids.
        n_new_tokens: how many it gets, whatever they are.
    """

    prompt: str
    ids: list[int]
    n_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One stream, as its client heard it.

    Args:
        sent_s: when it was asked for; the connection was made before.
        arrivals_s: moments at which tokens came. Tokens of one read have one moment.
        n_tokens: all of them.
    """

    sent_s: float
    arrivals_s: list[float]
    n_tokens: int


@dataclass(kw_only=True)
class Timing:
    """What the clients of one run heard.

    Args:
        tokens_per_s: over all streams, from the first request to the last token.
        first_p50_s, first_p99_s: from a request to its first token, over the streams.
        gap_p50_s, gap_p99_s: from one arrival to the next of the same stream, over all arrivals.
        tokens_per_arrival: above 1 where tokens came together.
        client_cpu_share: CPU seconds a second of a client that is a process of its own.
    """

    tokens_per_s: float
    first_p50_s: float
    first_p99_s: float
    gap_p50_s: float
    gap_p99_s: float
    tokens_per_arrival: float
    client_cpu_share: float = 0.0


async def in_turns(asks: Iterable[Ask], n_at_once: int, hear: Callable[[Ask], Awaitable[Heard]]) -> Timing:
    """Ask for everything, in order, so many at a time: where one ends the next begins.

    Args:
        asks: the requests.
        n_at_once: clients.
        hear: asks for one and follows it to its end.
    """
    waiting = iter(asks)

    async def client() -> list[Heard]:
        return [await hear(ask) for ask in waiting]

    streams = await asyncio.gather(*(client() for _ in range(n_at_once)))
    return timing([each for heard in streams for each in heard])


def timing(streams: Sequence[Heard]) -> Timing:
    """Rates and percentiles of one run."""
    started_s = min(each.sent_s for each in streams)
    ended_s = max(each.arrivals_s[-1] for each in streams)
    first_s = [each.arrivals_s[0] - each.sent_s for each in streams]
    gaps_s = [after - at for each in streams for at, after in zip(each.arrivals_s, each.arrivals_s[1:], strict=False)]
    n_tokens = sum(each.n_tokens for each in streams)
    return Timing(
        tokens_per_s=n_tokens / (ended_s - started_s),
        first_p50_s=percentile(first_s, 0.5),
        first_p99_s=percentile(first_s, 0.99),
        gap_p50_s=percentile(gaps_s, 0.5),
        gap_p99_s=percentile(gaps_s, 0.99),
        tokens_per_arrival=n_tokens / sum(len(each.arrivals_s) for each in streams),
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
