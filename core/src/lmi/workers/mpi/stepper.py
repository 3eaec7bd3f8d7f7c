# SPDX-License-Identifier: Apache-2.0
"""A stepper on many ranks: rank 0 says what each step does, all of them do it, and rank 0 has the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from lmi.api.engine import StepBatch, StepOutput, Stepper, StepperLimits

if TYPE_CHECKING:
    from lmi.workers.mpi.group import RankGroup


class Truncate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """``Stepper.truncate``."""

    slot: int
    n_tokens: int


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """``Stepper.release``."""

    slot: int


Change: TypeAlias = Truncate | Release


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """What all ranks do next.

    Args:
        place: of the stepper that does it: 0 for the model, 1 for its draft.
        changes: of slots, before the step.
        batch: the step; None for the end of all.
    """

    place: int
    changes: list[Change]
    batch: StepBatch | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Turn).decode


class MpiStepper(Stepper):
    """The stepper of rank 0, with those of all other ranks behind it.

    Args:
        stepper: of this rank.
        group: with this process as rank 0.
        limits: that all ranks keep.
        place: 0 for the model, 1 for its draft.
        on_close: called before the other ranks are told to end; the draft, which ends with the model, has none.
    """

    def __init__(
        self,
        stepper: Stepper,
        group: RankGroup,
        limits: StepperLimits,
        *,
        place: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.limits = limits
        self._stepper = stepper
        self._group = group
        self._place = place
        self._on_close = on_close
        self._changes: list[Change] = []
        self._is_closed = False

    def step(self, batch: StepBatch) -> StepOutput:
        self._send(batch)
        return self._stepper.step(batch)

    def truncate(self, slot: int, n_tokens: int) -> None:
        self._changes.append(Truncate(slot, n_tokens))
        self._stepper.truncate(slot, n_tokens)

    def release(self, slot: int) -> None:
        self._changes.append(Release(slot))
        self._stepper.release(slot)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._on_close is not None:
            self._on_close()
            self._send(None)
        self._stepper.close()
        if self._on_close is not None:
            self._group.finish()

    def _send(self, batch: StepBatch | None) -> None:
        changes, self._changes = self._changes, []
        self._group.broadcast(_encode(Turn(self._place, changes, batch)))


def follow(steppers: Sequence[Stepper], group: RankGroup) -> None:
    """Do what rank 0 says until it says that this is the end.

    Args:
        steppers: of this rank: the model's, and its draft's if that is on all ranks.
        group: with this process as any rank but 0.
    Raises:
        Exception: whatever a step raised; this rank cannot go on.
    """
    while True:
        turn = _decode(group.receive())
        if turn.batch is None:
            return
        stepper = steppers[turn.place]
        for change in turn.changes:
            if isinstance(change, Truncate):
                stepper.truncate(change.slot, change.n_tokens)
            else:
                stepper.release(change.slot)
        stepper.step(turn.batch)
