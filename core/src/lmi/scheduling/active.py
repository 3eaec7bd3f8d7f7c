# SPDX-License-Identifier: Apache-2.0
"""A request between its arrival at the scheduler and its last token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from lmi.api import Finish, FinishReason, GenerationRequest, TokenLogprob, Usage

Owner = TypeVar("Owner")


class ActiveRequest(Generic[Owner]):
    """Where one request stands: its ids, how many of them the cache holds, and when it ends.

    Args:
        request: the request; ``resumed_ids`` are output it already has.
        eos_token_ids: the model's end-of-sequence ids.
        owner: whoever receives its tokens; the scheduler only carries it.
    """

    __slots__ = (
        "_eos_ids", "_stop_ids", "ids", "is_decoding", "max_tokens", "n_cached", "n_prompt", "owner",
        "prompt_logprobs", "request", "slot",
    )  # fmt: skip

    def __init__(self, request: GenerationRequest, eos_token_ids: Iterable[int], owner: Owner) -> None:
        sampling = request.sampling
        self.request = request
        self.owner = owner
        self.n_prompt = len(request.prompt_ids)
        self.max_tokens = sampling.max_tokens
        self.ids = [*request.prompt_ids, *request.resumed_ids]
        self.n_cached = 0
        self.slot = -1
        self.is_decoding = False
        # A resumed request has sent its first chunk, and with it the prompt's log probabilities, before.
        wants_prompt = sampling.n_prompt_logprobs is not None and not request.resumed_ids
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if wants_prompt else None
        # A constraint ends where nothing may follow, with ignore_eos, too; until then its guide holds the end back.
        ignores_eos = sampling.ignore_eos and sampling.constraint is None
        self._eos_ids = frozenset() if ignores_eos else frozenset(eos_token_ids)
        self._stop_ids = frozenset(sampling.stop_token_ids)

    @property
    def adapter(self) -> str:
        """The adapter that answers it; empty for the model itself."""
        return self.request.adapter

    @property
    def ending_ids(self) -> frozenset[int]:
        """Ids that end this request."""
        return self._eos_ids | self._stop_ids

    @property
    def n_output(self) -> int:
        """Ids produced, those of an earlier run included."""
        return len(self.ids) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Ids that the cache does not hold yet."""
        return len(self.ids) - self.n_cached

    @property
    def n_unscored(self) -> int:
        """Prompt ids whose log probability is still to be computed."""
        return 0 if self.prompt_logprobs is None else self.n_prompt - len(self.prompt_logprobs)

    @property
    def usage(self) -> Usage:
        return Usage(n_prompt_tokens=self.n_prompt, n_output_tokens=self.n_output)

    def reserved_tokens(self, headroom_tokens: int) -> int:
        """Cache tokens to set aside: what it has and some room to grow, at most what it may ever reach."""
        return min(len(self.ids) + headroom_tokens, self.n_prompt + self.max_tokens)

    def finish_on(self, token_id: int | None) -> Finish | None:
        """Why the request ends with this id as its last one, or None if it goes on."""
        if token_id in self._eos_ids:
            return Finish(FinishReason.EOS, token_id)
        if token_id in self._stop_ids:
            return Finish(FinishReason.STOP_TOKEN, token_id)
        return Finish(FinishReason.LENGTH) if self.n_output >= self.max_tokens else None

    def finish_on_arrival(self) -> Finish | None:
        """Why a resumed request needs no further token, or None: its worker died before it could say so."""
        resumed = self.request.resumed_ids
        last = resumed[-1] if len(resumed) > self.request.sampling.min_tokens else None
        return self.finish_on(last)
