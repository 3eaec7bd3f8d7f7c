# SPDX-License-Identifier: Apache-2.0
"""Guesses of a draft model for running requests, and which of them hold. No torch but that of the logits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmi.api import Decode, Draft, Prefill, StepBatch, StepperLimits, TokenChunk
from lmi.api.errors import EngineLoadError
from lmi.scheduling.active import ActiveRequest, Owner
from lmi.scheduling.scheduler import Plan
from lmi.scheduling.streams import Delivery, Stream

_LOG = logging.getLogger(__name__)
_N_LOGGED_GUESSES = 1000


@dataclass
class Trail:
    """The guesses of one request in a step, and how far they were followed.

    Args:
        active: the request.
        row: of the logits after its last id.
        slot: its slot when the step began.
        n_ids: ids that it had then.
        guesses: those that follow.
        n_accepted: guesses that were right, one after the other.
    """

    active: ActiveRequest[Stream]
    row: int
    slot: int
    n_ids: int
    guesses: list[int]
    n_accepted: int = 0

    @classmethod
    def of(cls, plan: Plan[Stream], row: int, active: ActiveRequest[Stream]) -> Trail:
        """The beginning of one."""
        guesses = plan.guesses.get(active.slot, []) if active.is_decoding else []
        return cls(active, row, active.slot, len(active.ids), guesses)

    def next(self, item: TokenChunk | Exception) -> tuple[int, ActiveRequest[Stream]] | None:
        """The row to go on with after a token; None where the request ended, or the guess was another.

        Args:
            item: what the request got from the row before.
        """
        if isinstance(item, Exception) or self.guesses[self.n_accepted : self.n_accepted + 1] != item.ids[-1:]:
            return None
        self.n_accepted += 1
        return None if item.finish is not None else (self.row + self.n_accepted, self.active)


def joined(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """What a step gave its streams, the tokens of each in one chunk."""
    chunks: dict[Stream, TokenChunk] = {}
    others: list[Delivery] = []
    for stream, item in deliveries:
        if not isinstance(item, TokenChunk):
            others.append((stream, item))  # after its tokens
        elif (before := chunks.get(stream)) is None:
            chunks[stream] = item
        else:
            logprobs = None if before.logprobs is None else [*before.logprobs, *(item.logprobs or ())]
            ids = [*before.ids, *item.ids]
            chunks[stream] = TokenChunk(ids, logprobs, before.prompt_logprobs, item.finish, item.usage)
    return [*chunks.items(), *others]


class Speculation:
    """What a draft model has read of each slot, and what it guesses next.

    Args:
        draft: the small model.
        limits: of the stepper it guesses for.
    Raises:
        EngineLoadError: the two do not go together.
    """

    def __init__(self, draft: Draft, limits: StepperLimits) -> None:
        own = draft.stepper.limits
        if own.vocab_size != limits.vocab_size:
            raise EngineLoadError(
                "engine.draft-misfit",
                f"the draft model has {own.vocab_size} token ids, the model {limits.vocab_size}",
                "Use a draft model with the same tokenizer",
            )
        if own.max_slots < limits.max_slots or limits.samples_on_device:
            why = (
                "the backend samples on its device"
                if limits.samples_on_device
                else (f"the draft model has {own.max_slots} slots, the model {limits.max_slots}")
            )
            raise EngineLoadError("engine.draft-misfit", f"guesses cannot be checked: {why}")
        most = limits.n_logits_per_slot - 1 if limits.n_logits_per_slot else draft.n_tokens
        self.n_tokens = min(draft.n_tokens, most)
        self.n_guessed = 0
        self.n_accepted = 0
        self._stepper = draft.stepper
        self._limits = own
        self._capacity_tokens = limits.kv_capacity_tokens
        self._n_read = [0] * limits.max_slots
        self._is_logged = draft.is_logged
        self._logged = (0, 0)

    def release(self, slots: Iterable[int]) -> None:
        """Forget what was read of slots whose requests are gone."""
        for slot in slots:
            if self._n_read[slot]:
                self._n_read[slot] = 0
                self._stepper.release(slot)

    def close(self) -> None:
        """Close the draft model."""
        self._stepper.close()

    # ------------------------------------------------------------------------------------------------------- guessing

    def guess(self, plan: Plan[Owner], kv_used_tokens: int) -> None:
        """Add guesses to the decodes of a step, as many as the caches hold.

        Args:
            plan: the step; its batch and rows are changed.
            kv_used_tokens: of the larger model's cache, before the step.
        """
        wanted = self._wanted(plan, kv_used_tokens)
        if wanted:
            plan.guess(self._guesses(wanted))

    def _wanted(self, plan: Plan[Owner], kv_used_tokens: int) -> dict[ActiveRequest[Owner], int]:
        """How many guesses each request may have: never beyond its last id, nor beyond either cache."""
        n_step = len(plan.decodes) + sum(n_tokens for _, n_tokens in plan.chunks)
        room = self._capacity_tokens - kv_used_tokens - n_step
        own_room = self._limits.kv_capacity_tokens - sum(self._n_read)
        wanted: dict[ActiveRequest[Owner], int] = {}
        for active in plan.decodes:
            n_tokens = min(self.n_tokens, active.max_tokens - active.n_output - 1, room)
            n_read = len(active.ids) - self._n_read[active.slot] + n_tokens
            if n_tokens > 0 and n_read <= own_room and len(active.ids) + n_tokens <= self._limits.max_context_tokens:
                wanted[active] = n_tokens
                room -= n_tokens
                own_room -= n_read
        return wanted

    def _guesses(self, wanted: Mapping[ActiveRequest[Owner], int]) -> dict[int, list[int]]:
        """Ids by slot: the most likely ones of the draft model, one after the other."""
        guesses = dict(
            zip((active.slot for active in wanted), ([each] for each in self._read(list(wanted))), strict=True)
        )
        for number in range(1, max(wanted.values())):
            open_ = [active.slot for active, n_tokens in wanted.items() if number < n_tokens]
            decodes = [Decode(slot=slot, ids=guesses[slot][-1:], start=self._n_read[slot]) for slot in open_]
            for slot, token_id in zip(open_, self._step([], decodes), strict=True):
                guesses[slot].append(token_id)
        self.n_guessed += sum(map(len, guesses.values()))
        return guesses

    def _read(self, actives: Sequence[ActiveRequest[Owner]]) -> list[int]:
        """Read all that each request has; the id that the draft model puts after it."""
        found: dict[int, int] = {}
        budget = self._limits.prefill_chunk_tokens
        while len(found) < len(actives):
            prefills: list[Prefill] = []
            left = budget if budget is not None else sum(len(active.ids) for active in actives)
            for active in actives:
                slot, start = active.slot, self._n_read[active.slot]
                if slot in found or not left or len(prefills) == self._limits.max_prefills_per_step:
                    continue
                ids = active.ids[start : start + left]
                left -= len(ids)
                is_last = start + len(ids) == len(active.ids)
                prefills.append(Prefill(slot=slot, ids=ids, start=start, n_logits=int(is_last)))
            last = [each.slot for each in prefills if each.n_logits]
            found.update(zip(last, self._step(prefills, []), strict=True))
        return [found[active.slot] for active in actives]

    def _step(self, prefills: list[Prefill], decodes: list[Decode]) -> list[int]:
        output = self._stepper.step(StepBatch(prefills=prefills, decodes=decodes))
        entries: list[Prefill | Decode] = [*prefills, *decodes]
        for entry in entries:
            self._n_read[entry.slot] = entry.start + len(entry.ids)
        if output.ids is not None:
            return output.ids
        assert output.logits is not None  # noqa: S101 - one of both is there
        ids: list[int] = output.logits.argmax(-1).tolist()
        return ids

    # ------------------------------------------------------------------------------------------------------- checking

    def accept(self, slot: int, n_ids: int, n_accepted: int) -> None:
        """Take note of how many guesses were right, and forget the others.

        Args:
            slot: of the request.
            n_ids: ids that the request had before the step.
            n_accepted: guesses that are its output now.
        """
        self.n_accepted += n_accepted
        self._log_rate()
        n_right = n_ids + n_accepted
        if self._n_read[slot] > n_right:
            self._n_read[slot] = n_right
            self._stepper.truncate(slot, n_right)

    def _log_rate(self) -> None:
        n_guessed = self.n_guessed - self._logged[0]
        if self._is_logged and n_guessed >= _N_LOGGED_GUESSES:
            share = (self.n_accepted - self._logged[1]) / n_guessed
            _LOG.info("draft model: %.0f%% of the last %d guesses were right", 100 * share, n_guessed)
            self._logged = (self.n_guessed, self.n_accepted)
