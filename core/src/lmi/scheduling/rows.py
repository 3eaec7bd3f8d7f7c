# SPDX-License-Identifier: Apache-2.0
"""What sampling remembers of one request from token to token; it belongs to the request, not to a slot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lmi.api import SamplingParams
from lmi.scheduling.randomness import UniformStream

if TYPE_CHECKING:
    from lmi.scheduling.guides import Guide

Ids = NDArray[np.int64]
Values = NDArray[np.float32]


class TokenHistory:
    """Each different id of a request once, with how often it was produced; grows by one token in constant time.

    Args:
        prompt_ids: ids that were seen but not produced.
        output_ids: ids produced so far.
        vocab_size: number of token ids.
    """

    def __init__(self, prompt_ids: Sequence[int], output_ids: Sequence[int], vocab_size: int) -> None:
        prompt = np.asarray(prompt_ids, np.int64)
        output = np.asarray(output_ids, np.int64)
        seen = np.unique(np.concatenate((prompt, output)))
        self._n = len(seen)
        self._ids: Ids = np.resize(seen, max(16, 2 * self._n))
        self._counts: Values = np.zeros(len(self._ids), np.float32)
        self._counts[: self._n] = np.bincount(output, minlength=vocab_size)[seen]
        self._place: NDArray[np.int32] = np.full(vocab_size, -1, np.int32)
        self._place[seen] = np.arange(self._n, dtype=np.int32)

    @property
    def ids(self) -> Ids:
        """The different ids, in no particular order, shape [n]."""
        return self._ids[: self._n]

    @property
    def counts(self) -> Values:
        """How often each of ``ids`` was produced, shape [n]; 0 for ids of the prompt alone."""
        return self._counts[: self._n]

    def append(self, token_id: int) -> None:
        """Count one more produced id."""
        place = int(self._place[token_id])
        if place < 0:
            if self._n == len(self._ids):
                self._ids = np.resize(self._ids, 2 * self._n)
                self._counts = np.resize(self._counts, 2 * self._n)
            place = self._n
            self._place[token_id] = place
            self._ids[place] = token_id
            self._counts[place] = 0.0
            self._n += 1
        self._counts[place] += 1.0


class BadWords:
    """Sequences of ids that must not be produced: what may not follow the output as it stands.

    Args:
        words: sequences of ids.
        output_ids: ids produced so far.
    """

    def __init__(self, words: Sequence[Sequence[int]], output_ids: Sequence[int]) -> None:
        # The last id of each word, by what comes before it; one word may begin like another.
        self._ends: dict[tuple[int, ...], set[int]] = {}
        for word in words:
            self._ends.setdefault(tuple(word[:-1]), set()).add(word[-1])
        self._lengths = sorted({len(beginning) for beginning in self._ends})
        n_kept = self._lengths[-1]
        self._tail = tuple(output_ids[-n_kept:]) if n_kept else ()
        self._n_kept = n_kept

    @property
    def forbidden(self) -> set[int]:
        """Ids that would complete a word now."""
        tail, found = self._tail, set[int]()
        for length in self._lengths:
            if length <= len(tail):
                found |= self._ends.get(tail[len(tail) - length :], set())
        return found

    def append(self, token_id: int) -> None:
        """Take note of one more produced id."""
        self._tail = (*self._tail, token_id)[-self._n_kept :] if self._n_kept else ()


class SamplingRow:
    """How the next token of one request is chosen, and what that depends on.

    ``guide`` is set where the request has a constraint; its mask must be that of the next token.

    Args:
        sampling: the request's parameters; ``seed`` is set unless it is greedy.
        prompt_ids: ids of the prompt.
        output_ids: ids produced before (a resumed request); they count as output.
        ending_ids: end-of-sequence and stop ids, kept back until ``min_tokens`` ids are produced.
        vocab_size: number of token ids.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        ending_ids: Collection[int],
        vocab_size: int,
    ) -> None:
        self.sampling = sampling
        self.guide: Guide | None = None
        self.n_output = len(output_ids)
        self.is_greedy = sampling.temperature == 0.0
        self.uniforms = None if self.is_greedy else UniformStream(sampling.seed or 0)
        has_penalty = sampling.repetition_penalty != 1.0 or bool(
            sampling.presence_penalty or sampling.frequency_penalty
        )
        self.history = TokenHistory(prompt_ids, output_ids, vocab_size) if has_penalty else None
        added = dict(sampling.logit_bias)
        added.update(dict.fromkeys(sampling.bad_token_ids, -np.inf))
        self._added = _pairs(added)
        held = {i: -np.inf for i in ending_ids if 0 <= i < vocab_size}
        self._added_early = _pairs({**added, **held}) if self.n_output < sampling.min_tokens else self._added
        self._words = BadWords(sampling.bad_word_ids, output_ids) if sampling.bad_word_ids else None
        self._with_words = self._add_words()

    @property
    def added(self) -> tuple[Ids, Values] | None:
        """Ids and what is added to their logits now: bias, and minus infinity for what may not be produced."""
        return self._with_words or self._added_alone

    @property
    def _added_alone(self) -> tuple[Ids, Values] | None:
        return self._added_early if self.n_output < self.sampling.min_tokens else self._added

    def _add_words(self) -> tuple[Ids, Values] | None:
        """What is added where the next id could complete a bad word; None where it cannot."""
        forbidden = self._words.forbidden if self._words is not None else None
        if not forbidden:
            return None
        alone = self._added_alone
        added = {} if alone is None else dict(zip(alone[0].tolist(), alone[1].tolist(), strict=True))
        return _pairs({**added, **dict.fromkeys(forbidden, -np.inf)})

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the most likely one of the logits as they are."""
        return self.is_greedy and self.history is None and self.added is None and self.guide is None

    def append(self, token_id: int) -> None:
        """Take note of the token that was chosen."""
        self.n_output += 1
        if self.guide is not None:
            self.guide.append(token_id)
        if self.history is not None:
            self.history.append(token_id)
        if self._words is not None:
            self._words.append(token_id)
            self._with_words = self._add_words()


def _pairs(added: dict[int, float]) -> tuple[Ids, Values] | None:
    if not added:
        return None
    return np.fromiter(added.keys(), np.int64, len(added)), np.fromiter(added.values(), np.float32, len(added))
