# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself while it is measured: its route ``/metrics``, if it is LMI's."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from lmi.client import Connection

_INTERVAL_S = 0.2
_OK = 200
_OWN = "lmi_engine_steps"
"""A metric that every server of LMI's has, from the first moment."""


@dataclass(kw_only=True)
class ServerSeen:
    """The server during one level, by its own word.

    Args:
        n_waiting_peak, n_running_peak: requests; the most that a sample found, over all workers.
        cache_share_peak: of the cache's tokens; None where the backend does not tell.
        n_deaths: workers that died.
        prompt_tokens: mean of the prompts that were answered, of whoever asked; None of none.
        n_samples: how often it was looked at.
    """

    n_waiting_peak: int = 0
    n_running_peak: int = 0
    cache_share_peak: float | None = None
    n_deaths: int = 0
    prompt_tokens: float | None = None
    n_samples: int = 0


def parsed(text: str) -> dict[str, float]:
    """Sums of Prometheus' text format, by the names of metrics, over their labels.

    Source: Prometheus, exposition formats.
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            with contextlib.suppress(ValueError):
                sums[name] = sums.get(name, 0.0) + float(line.rpartition("}")[2].split()[-1])
    return sums


async def read_metrics(connection: Connection) -> dict[str, float]:
    """What the server says now; empty for another server than LMI."""
    try:
        answer = await connection.ask("GET", "/metrics")
    except OSError:
        return {}
    found = parsed(answer.body.decode(errors="replace")) if answer.status == _OK else {}
    return found if _OWN in found else {}


class Watch:
    """Looks at ``/metrics`` again and again for the length of a block; ``seen`` is None for another server.

    Args:
        connection: of its own.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self._before: dict[str, float] = {}
        self.seen: ServerSeen | None = None

    async def __aenter__(self) -> Watch:
        if before := await read_metrics(self._connection):
            self.seen = ServerSeen()
            self._before = before
            self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._add(await read_metrics(self._connection))
        self._connection.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self._add(await read_metrics(self._connection))

    def _add(self, found: dict[str, float]) -> None:
        seen = self.seen
        if not found or seen is None:
            return
        seen.n_samples += 1
        seen.n_waiting_peak = max(seen.n_waiting_peak, int(found.get("lmi_waiting_requests", 0)))
        seen.n_running_peak = max(seen.n_running_peak, int(found.get("lmi_running_requests", 0)))
        if total := found.get("lmi_kv_total_tokens"):
            share = found.get("lmi_kv_used_tokens", 0) / total
            seen.cache_share_peak = max(seen.cache_share_peak or 0.0, share)
        seen.n_deaths = int(self._more(found, "lmi_worker_deaths_total"))
        if n_answered := self._more(found, "lmi_requests_total"):
            seen.prompt_tokens = self._more(found, "lmi_prompt_tokens_total") / n_answered

    def _more(self, found: dict[str, float], name: str) -> float:
        return found.get(name, 0.0) - self._before.get(name, 0.0)
