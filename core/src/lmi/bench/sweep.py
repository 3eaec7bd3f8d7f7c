# SPDX-License-Identifier: Apache-2.0
"""A sweep: warm up, measure level after level, tell each as it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmi.api.errors import LmiError
from lmi.bench.levels import Asker, Level, measured
from lmi.bench.metrics import read_metrics
from lmi.bench.words import Words

_LEAST_REQUESTS = 16
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is to be measured.

    Args:
        asker: makes the requests.
        prompts: of words; else an endless iterator of prompts.
        levels: numbers of clients.
        n_requests: of each level; None for four a client, sixteen at least.
        is_warm: whether each level is asked one round before it is measured.
    """

    asker: Asker
    prompts: Words | Iterator[Any]
    levels: Sequence[int]
    n_requests: int | None = None
    is_warm: bool = True

    async def run(self, tell: Callable[[Level], None]) -> list[Level]:
        """All levels, in order.

        Args:
            tell: called with each when it is done.
        Raises:
            LmiError: the server does not answer the first request.
        """
        await self._first()
        prompts, done = iter(self.prompts), []
        for n_at_once in self.levels:
            if self.is_warm:
                await measured(self.asker, prompts, n_at_once, n_at_once)
            n_requests = self.n_requests or max(_LEAST_REQUESTS, _ROUNDS * n_at_once)
            done.append(await measured(self.asker, prompts, n_at_once, n_requests))
            tell(done[-1])
        return done

    async def _first(self) -> None:
        """See that the server answers, and learn how many tokens a word has."""
        prompt = next(iter(self.prompts))
        connection = self.asker.connection()
        before = await read_metrics(connection)
        heard = await self.asker.ask(prompt, connection)
        if heard.error is not None:
            code, message = heard.error
            hint = "See that it runs, that --schema and --path are what it takes, and that the prompt fits"
            raise LmiError("bench.no-answer", f"the first request failed with {code}: {message}", hint)
        after = await read_metrics(connection)
        connection.close()
        if isinstance(self.prompts, Words):
            n_tokens = heard.n_prompt_tokens or _n_prompt_tokens(before, after)
            if n_tokens:
                self.prompts.learn(prompt, n_tokens)


def _n_prompt_tokens(before: dict[str, float], after: dict[str, float]) -> int:
    """Of the one request in between; 0 where nobody counts, or somebody else asked too."""

    def more(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    return more("lmi_prompt_tokens_total") if more("lmi_requests_total") == 1 else 0
