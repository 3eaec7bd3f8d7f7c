# SPDX-License-Identifier: Apache-2.0
"""One level of a sweep: so many clients, each of which asks again when its answer has ended."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmi.bench.hearing import Hearing
from lmi.bench.metrics import ServerSeen, Watch
from lmi.bench.routes import Route
from lmi.client import Connection, Target

_QUANTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """How requests are made.

    Args:
        target: the server.
        route: where they go.
        headers: sent with each, names in lower case.
        body: of a prompt.
        timeout_s: what one request may take.
    """

    target: Target
    route: Route
    headers: Mapping[str, str]
    body: Callable[[Any], dict[str, Any]]
    timeout_s: float

    def connection(self) -> Connection:
        """A new one, not connected yet."""
        return Connection(self.target, self.headers)

    async def ask(self, prompt: Any, connection: Connection) -> Hearing:
        """One request to its end, or to its failure."""
        body = json.dumps(self.body(prompt)).encode()
        hearing = Hearing()
        try:
            await asyncio.wait_for(connection.connect(), self.timeout_s)
            hearing.sent_s = time.perf_counter()
            headers = self.route.headers(body, self.headers)
            asking = connection.ask("POST", self.route.path, body, headers, on_part=self.route.ear(hearing))
            answer = await asyncio.wait_for(asking, self.timeout_s)
        except (TimeoutError, asyncio.TimeoutError):  # two classes until Python 3.11
            hearing.fail("client.timeout", f"no end after {self.timeout_s:g} s")
        except OSError as error:
            hearing.fail("client.connection", str(error))
        else:
            if answer.is_error:
                hearing.fail(*self.route.error_of(answer))
            else:
                hearing.end()
        return hearing


@dataclass(frozen=True, kw_only=True)
class Level:
    """What was measured with so many clients.

    Args:
        n_at_once: clients.
        n_requests: all of them; n_errors of those failed, and count in nothing else.
        errors: how many by code.
        duration_s: from the first request to the last end.
        requests_per_s, tokens_per_s: answers, and their tokens, over that time.
        first_token_s, gap_s: percentiles ``p50``, ``p90``, ``p99``: from a request to its first token, and from one
            arrival of tokens to the next of the same stream; None of nothing.
        n_tokens: of all answers; counted by pieces where the server does not count (is_by_pieces).
        tokens_per_arrival: above 1 where tokens came together.
        prompt_tokens: mean of the prompts; None where the server does not tell.
        client_cpu_share: CPU seconds of this client a second.
        server: what it said of itself; None where it is not LMI.
    """

    n_at_once: int
    n_requests: int
    n_errors: int
    errors: dict[str, int]
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    first_token_s: dict[str, float | None]
    gap_s: dict[str, float | None]
    n_tokens: int
    is_by_pieces: bool
    tokens_per_arrival: float | None
    prompt_tokens: float | None
    client_cpu_share: float = 0.0
    server: ServerSeen | None = None
    messages: dict[str, str] = field(default_factory=dict)
    """An example of each error."""


async def measured(asker: Asker, prompts: Iterator[Any], n_at_once: int, n_requests: int) -> Level:
    """Ask so many requests, so many at a time: where one ends the next begins.

    Args:
        asker: makes the requests.
        prompts: one for each.
        n_at_once: clients.
        n_requests: of all clients together.
    """
    waiting = iter([next(prompts) for _ in range(n_requests)])
    connections = [asker.connection() for _ in range(n_at_once)]
    await asyncio.gather(*(connection.connect() for connection in connections), return_exceptions=True)

    async def client(connection: Connection) -> list[Hearing]:
        return [await asker.ask(prompt, connection) for prompt in waiting]

    async with Watch(asker.connection()) as watch:
        cpu_s, started_s = time.process_time(), time.perf_counter()
        heard = await asyncio.gather(*map(client, connections))
        cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - started_s)
    for connection in connections:
        connection.close()
    return counted([each for own in heard for each in own], n_at_once, cpu_share, watch.seen)


def counted(
    heard: Sequence[Hearing], n_at_once: int, client_cpu_share: float = 0.0, server: ServerSeen | None = None
) -> Level:
    """The numbers of a level, of what its clients heard."""
    good = [each for each in heard if each.error is None]
    failed = [each.error for each in heard if each.error is not None]
    duration_s = max(each.ended_s for each in heard) - min(each.sent_s for each in heard)
    gaps_s = [after - at for each in good for at, after in zip(each.arrivals_s, each.arrivals_s[1:], strict=False)]
    n_tokens = sum(each.n_tokens for each in good)
    n_arrivals = sum(len(each.arrivals_s) for each in good)
    told = [each.n_prompt_tokens for each in good if each.n_prompt_tokens is not None]
    return Level(
        n_at_once=n_at_once,
        n_requests=len(heard),
        n_errors=len(failed),
        errors=dict(Counter(code for code, _ in failed).most_common()),
        duration_s=duration_s,
        requests_per_s=len(good) / duration_s,
        tokens_per_s=n_tokens / duration_s,
        first_token_s=quantiles([each.arrivals_s[0] - each.sent_s for each in good]),
        gap_s=quantiles(gaps_s),
        n_tokens=n_tokens,
        is_by_pieces=any(each.n_told_tokens is None and not each.has_token_lines for each in good),
        tokens_per_arrival=n_tokens / n_arrivals if n_arrivals else None,
        prompt_tokens=sum(told) / len(told) if told else server.prompt_tokens if server else None,
        client_cpu_share=client_cpu_share,
        server=server,
        messages=dict(reversed(failed)),
    )


def quantiles(values: Iterable[float]) -> dict[str, float | None]:
    """The smallest values that 50, 90 and 99 % of the values do not exceed; None of none."""
    ordered = sorted(values)
    return {
        f"p{share}": ordered[max(0, math.ceil(share * len(ordered) / 100) - 1)] if ordered else None
        for share in _QUANTILES
    }
