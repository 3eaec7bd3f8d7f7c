# SPDX-License-Identifier: Apache-2.0
"""G, continued: what the core's scheduler relies on when a backend is a Stepper."""

from __future__ import annotations

from collections.abc import Sequence

from lmi.api import Decode, Prefill, StepBatch, Stepper
from lmi.testing.kit import Kit
from lmi.testing.rules import NotDeclared, rule

_EXACT, _ROUNDED = 1e-2, 0.5


class StepperRules:
    """Rule G13."""

    @rule("G13", "a Stepper answers in the order of its batch, and its slots hold what they were told to")
    def test_g13_slots(self, kit: Kit) -> None:
        if kit.engine.stepper is None:
            raise NotDeclared("the backend is an Engine")
        far = _EXACT if kit.case.is_exact else _ROUNDED
        prompt, other = kit.prompt(3), kit.prompt(1)
        with kit.bare_stepper() as run:
            alone, next_alone = run(lambda stepper: _one_by_one(stepper, prompt, other))
            together = run(lambda stepper: _in_one_batch(stepper, prompt, other))
            cut = run(lambda stepper: _cut_back(stepper, prompt))
            again = run(lambda stepper: _released(stepper, prompt))
        _alike(together[0], alone, far, "the first row of a batch of a Prefill and a Decode is not the Prefill's")
        _alike(together[1], next_alone, far, "the second row of a batch of a Prefill and a Decode is not the Decode's")
        _alike(cut, alone, far, "truncate(slot, n - 1) and the last id again give other logits")
        _alike(again, alone, far, "a released slot that reads its prompt again gives other logits")


Row = Sequence[float]


def _rows(stepper: Stepper, prefills: Sequence[Prefill] = (), decodes: Sequence[Decode] = ()) -> list[Row]:
    output = stepper.step(StepBatch(prefills=list(prefills), decodes=list(decodes)))
    if stepper.limits.samples_on_device:
        return [[float(token_id)] for token_id in output.ids or []]
    assert output.logits is not None, "the step gave neither logits nor ids"
    rows: list[Row] = output.logits.float().tolist()
    return rows


def _read(stepper: Stepper, slot: int, ids: Sequence[int]) -> Row:
    """Read a prompt into an empty slot, in pieces where the limits want it; the row of its last id."""
    size = stepper.limits.prefill_chunk_tokens or len(ids)
    rows: list[Row] = []
    for start in range(0, len(ids), size):
        piece, is_last = list(ids[start : start + size]), start + size >= len(ids)
        rows += _rows(stepper, [Prefill(slot=slot, ids=piece, start=start, n_logits=int(is_last))])
    assert len(rows) == 1, f"one row of logits was asked for, {len(rows)} came"
    return rows[0]


def _one_by_one(stepper: Stepper, prompt: Sequence[int], other: Sequence[int]) -> tuple[Row, Row]:
    alone = _read(stepper, 0, prompt)
    stepper.release(0)
    _read(stepper, 0, other)
    following = _rows(stepper, decodes=[Decode(slot=0, ids=[prompt[0]], start=len(other))])[0]
    stepper.release(0)
    return alone, following


def _in_one_batch(stepper: Stepper, prompt: Sequence[int], other: Sequence[int]) -> list[Row]:
    last = stepper.limits.max_slots - 1
    _read(stepper, 0, other)
    rows = _rows(
        stepper,
        [Prefill(slot=last, ids=list(prompt), start=0, n_logits=1)],
        [Decode(slot=0, ids=[prompt[0]], start=len(other))],
    )
    assert len(rows) == 2, f"two rows of logits were asked for, {len(rows)} came"
    stepper.release(0)
    stepper.release(last)
    return rows


def _cut_back(stepper: Stepper, prompt: Sequence[int]) -> Row:
    n = len(prompt)
    _read(stepper, 0, prompt)
    _rows(stepper, decodes=[Decode(slot=0, ids=[prompt[0]], start=n)])
    stepper.truncate(0, n - 1)
    row = _rows(stepper, decodes=[Decode(slot=0, ids=[prompt[-1]], start=n - 1)])[0]
    stepper.release(0)
    return row


def _released(stepper: Stepper, prompt: Sequence[int]) -> Row:
    _read(stepper, 0, prompt[::-1])
    stepper.release(0)
    row = _read(stepper, 0, prompt)
    stepper.release(0)
    return row


def _alike(found: Row, expected: Row, tolerance: float, otherwise: str) -> None:
    assert len(found) == len(expected), f"rows of {len(found)} and {len(expected)} logits"
    far = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    assert far <= tolerance, f"{otherwise}: they are {far:.3g} apart"
