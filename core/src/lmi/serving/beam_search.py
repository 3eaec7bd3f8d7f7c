# SPDX-License-Identifier: Apache-2.0
"""Beam search over the log probabilities of the next token: which sequences go on, which have ended, when it is over.

Source: the beam search of transformers' ``generate``, whose answers these are for the same log probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmi.api.requests import Finish, FinishReason, SamplingParams, TokenLogprob

_MOST_LOGPROBS = 100
"""Most likely ids that are asked of an engine."""


@dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """How a beam search goes.

    Args:
        n_beams: sequences that are followed at a time.
        length_penalty: a sequence's log probability is divided by its length to this power; above 0 favours long ones.
        early_stopping: True ends as soon as there are ``n_beams`` ended sequences; False where the best open one, as
            long as it is now, is no better than the worst of them; ``never`` where it cannot become better.
    """

    n_beams: int
    length_penalty: float = 1.0
    early_stopping: Literal[True, False, "never"] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Beam:
    """One sequence.

    Args:
        ids: produced so far.
        logprobs: an entry an id.
        total: sum of their log probabilities.
        finish: why it ended; None while it is open.
        score: what ended sequences are ranked by.
    """

    ids: list[int]
    logprobs: list[TokenLogprob]
    total: float = 0.0
    finish: Finish | None = None
    score: float = 0.0


class BeamSearch:
    """The state of one search.

    ``open`` are the sequences to go on with, best first, and ``ended`` those that came to an end, by score.

    Args:
        settings: how it goes.
        sampling: of the request: its lengths and what ends a sequence.
        eos_token_ids: the model's end-of-sequence ids.
        has_stopped: whether a sequence's text ends it; None where no text does.
    """

    def __init__(
        self,
        settings: BeamSettings,
        sampling: SamplingParams,
        eos_token_ids: Collection[int],
        has_stopped: Callable[[list[int]], bool] | None = None,
    ) -> None:
        self.open = [Beam(ids=[], logprobs=[])]
        self.ended: list[Beam] = []
        self._settings = settings
        self._sampling = sampling
        self._has_stopped = has_stopped
        self._eos_ids = frozenset() if sampling.ignore_eos else frozenset(eos_token_ids)
        self._stop_ids = frozenset(sampling.stop_token_ids)

    @property
    def n_logprobs(self) -> int:
        """Most likely ids to look at after each sequence: as many as may go on, and those that may end instead."""
        n_beams = self._settings.n_beams
        n_ends = len(self._eos_ids | self._stop_ids)
        n_wanted = n_beams + (n_ends if self._has_stopped is None else max(n_ends, n_beams))
        return min(max(n_wanted, self._sampling.n_logprobs or 0), _MOST_LOGPROBS)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be found."""
        settings = self._settings
        if not self.open or len(self.ended) < settings.n_beams:
            return not self.open
        if settings.early_stopping is True:
            return True
        n_ids = len(self.open[0].ids)
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            n_ids = self._sampling.max_tokens
        return self._score(self.open[0].total, n_ids) <= self.ended[-1].score

    def advance(self, tops: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Go on by one token.

        Args:
            tops: for each open sequence the most likely next ids with their log probabilities, best first.
        """
        n_beams = self._settings.n_beams
        still_open: list[Beam] = []
        ended: list[Beam] = []
        for place, beam in enumerate(self._candidates(tops)):
            finish = self._finish_of(beam.ids)
            if finish is None:
                still_open.append(beam)
            elif place < n_beams:  # an end that is no better than so many others is forgotten
                ended.append(self._end(beam, finish))
            if len(still_open) == n_beams or (place >= n_beams - 1 and self._is_full_length(beam)):
                break
        self.open = still_open
        self.ended = sorted([*self.ended, *ended], key=lambda beam: -beam.score)[:n_beams]

    def stop(self, finish: Finish) -> None:
        """End what is open, now; it ranks behind what came to an end of its own."""
        self.ended = [*self.ended, *(self._end(beam, finish) for beam in self.open)][: self._settings.n_beams]
        self.open = []

    def _candidates(self, tops: Sequence[Sequence[tuple[int, float]]]) -> Iterator[Beam]:
        """The sequences longer by one token, best first."""
        n_ids = len(self.open[0].ids)
        barred = self._eos_ids | self._stop_ids if n_ids < self._sampling.min_tokens else frozenset[int]()
        found = [
            (beam.total + logprob, beam, rank, token_id, logprob)
            for beam, top in zip(self.open, tops, strict=True)
            for rank, (token_id, logprob) in enumerate(top, start=1)
            if token_id not in barred
        ]
        found.sort(key=lambda each: -each[0])
        n_shown = self._sampling.n_logprobs or 0
        top_of = {id(beam): tuple(top[:n_shown]) for beam, top in zip(self.open, tops, strict=True)}
        for total, beam, rank, token_id, logprob in found:
            entry = TokenLogprob(token_id, logprob, rank, top_of[id(beam)])
            yield Beam(ids=[*beam.ids, token_id], logprobs=[*beam.logprobs, entry], total=total)

    def _finish_of(self, ids: list[int]) -> Finish | None:
        last = ids[-1]
        if last in self._eos_ids:
            return Finish(FinishReason.EOS, last)
        if last in self._stop_ids:
            return Finish(FinishReason.STOP_TOKEN, last)
        # A text that ends says so itself when it is written; here it only counts as ended.
        is_last = len(ids) >= self._sampling.max_tokens or (self._has_stopped is not None and self._has_stopped(ids))
        return Finish(FinishReason.LENGTH) if is_last else None

    def _is_full_length(self, beam: Beam) -> bool:
        return len(beam.ids) >= self._sampling.max_tokens

    def _end(self, beam: Beam, finish: Finish) -> Beam:
        score = self._score(beam.total, len(beam.ids))
        return Beam(ids=beam.ids, logprobs=beam.logprobs, total=beam.total, finish=finish, score=score)

    def _score(self, total: float, n_ids: int) -> float:
        return float(total / n_ids**self._settings.length_penalty)
