# SPDX-License-Identifier: Apache-2.0
"""Sequences that grow side by side: their pieces in one stream, and failures that nobody is left to wait for."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from lmi.api import EngineDeadError
from lmi.serving.openai_answers import side_by_side


class Sequence:
    """Gives one piece after the other, and then ends or fails.

    Args:
        pieces: what it gives; an exception is raised.
    """

    def __init__(self, *pieces: Any) -> None:
        self._pieces = list(pieces)
        self.finish_reason = ""
        self.is_waiting = False
        self.n_asked = 0

    async def next(self) -> list[Any]:
        await asyncio.sleep(0)
        piece = self._pieces.pop(0)
        self.n_asked += 1
        if piece is None:
            self.is_waiting = True
            try:
                await asyncio.Event().wait()
            finally:
                self.is_waiting = False
        if isinstance(piece, Exception):
            raise piece
        self.finish_reason = "" if self._pieces else "length"
        return [piece]


def failure(name: str) -> EngineDeadError:
    return EngineDeadError("engine.died", name)


def told(*sequences: Sequence) -> tuple[list[Any], list[str]]:
    """What comes of them, the failure that ends it included; and what the event loop has to complain about."""
    found: list[Any] = []
    complaints: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        try:
            async for pair in side_by_side(sequences):  # type: ignore[arg-type]
                found.append(pair)
        except EngineDeadError as error:
            found.append(error.message)
            assert not any(each.is_waiting for each in sequences)
        gc.collect()

    asyncio.run(main())
    return found, complaints


def test_each_piece_comes_with_the_place_of_its_sequence() -> None:
    found, complaints = told(Sequence("a", "b"), Sequence("c"))
    assert sorted(found) == [(0, ["a"]), (0, ["b"]), (1, ["c"])]
    assert complaints == []


@pytest.mark.parametrize("n_failures", [1, 2, 3])
def test_sequences_that_fail_at_the_same_moment_end_with_the_first_failure_and_without_complaints(
    n_failures: int,
) -> None:
    failing = [Sequence(failure(f"number {i}")) for i in range(n_failures)]
    assert told(*failing, Sequence("a", "b")) == (["number 0"], [])


def test_what_still_waits_when_another_fails_is_cancelled_before_the_failure_is_told() -> None:
    waiting = Sequence(None)
    assert told(Sequence("a", failure("late")), waiting) == ([(0, ["a"]), "late"], [])
    assert waiting.n_asked == 1
