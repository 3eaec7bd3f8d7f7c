# SPDX-License-Identifier: Apache-2.0
"""Stands where your inference library will: requests go in, one step makes one id for each. Delete this file then."""

from __future__ import annotations

import time
from dataclasses import dataclass

STEP_S = 0.0005
"""What a step would take on a device."""


@dataclass
class Sequence:
    """One request inside the library."""

    key: str
    prompt_ids: list[int]
    n_output: int
    max_tokens: int
    stop_ids: frozenset[int]


@dataclass(frozen=True)
class Produced:
    """One id of one request; ``reason`` is "stop" or "length" with the last one."""

    key: str
    token_id: int
    n_output: int
    reason: str = ""


class EchoLibrary:
    """Batches up to ``n_slots`` requests; each gets its prompt back, again and again."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._sequences: dict[str, Sequence] = {}

    @property
    def n_running(self) -> int:
        return min(len(self._sequences), self._n_slots)

    @property
    def n_waiting(self) -> int:
        return max(0, len(self._sequences) - self._n_slots)

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits: then it must be stepped."""
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Take a request; raise where it cannot be served."""
        self._sequences[sequence.key] = sequence

    def abort(self, key: str) -> None:
        """Forget a request; it may have ended in the last step."""
        self._sequences.pop(key, None)

    def step(self) -> list[Produced]:
        """One id for each of the oldest requests."""
        time.sleep(STEP_S)  # as long as a device computes, other threads run
        return [self._advance(sequence) for sequence in list(self._sequences.values())[: self._n_slots]]

    def _advance(self, sequence: Sequence) -> Produced:
        token_id = sequence.prompt_ids[sequence.n_output % len(sequence.prompt_ids)]
        sequence.n_output += 1
        is_full = sequence.n_output >= sequence.max_tokens
        reason = "stop" if token_id in sequence.stop_ids else "length" if is_full else ""
        if reason:
            del self._sequences[sequence.key]
        return Produced(sequence.key, token_id, sequence.n_output, reason)
