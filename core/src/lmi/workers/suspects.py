# SPDX-License-Identifier: Apache-2.0
"""Requests whose worker died: which go on, in what order, and which one is the killer.

After a death the requests that were in flight are *suspects*. They are resubmitted one at a time: the next one follows
when the one *on trial* has produced some ids, more of them after each further death. A suspect that was on trial at a
death is next tried alone on a worker; if that worker dies too, it is the killer and fails. So a killer costs three
deaths if it kills at once, six if it takes its time, and fails alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from lmi.api.backend import BackendInfo, Resume
from lmi.api.errors import EngineDeadError, LmiError, OutOfMemoryError
from lmi.api.requests import FinishReason, SamplingParams
from lmi.workers.flight import Flight
from lmi.workers.worker import Worker

_TRIAL_IDS = (1, 16, 64, math.inf)
"""Ids a suspect must produce to be cleared, by the number of deaths it has seen."""


class Suspects:
    """The suspects of one model; true while there are any that are not on trial.

    Args:
        info: says whether and how the backend can resume.
    """

    def __init__(self, info: BackendInfo) -> None:
        self._info = info
        self._queue: deque[Flight] = deque()
        self._trial: Flight | None = None

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __iter__(self) -> Iterator[Flight]:
        """Those that are not on trial."""
        return iter(self._queue)

    @property
    def to_try(self) -> Sequence[Flight]:
        """Those of which one may be tried now, in order; none while one is on trial."""
        return tuple(self._queue) if self._trial is None else ()

    def start_trial(self, flight: Flight) -> None:
        """Put a suspect on trial; the caller submits it."""
        self._queue.remove(flight)
        self._trial = flight
        flight.is_on_trial = True
        flight.n_trial_ids_left = _TRIAL_IDS[min(flight.n_deaths, len(_TRIAL_IDS)) - 1]

    def end_trial(self, flight: Flight) -> None:
        """The suspect on trial has produced enough or ended."""
        flight.is_on_trial = flight.is_alone = False
        self._trial = None

    def has_for_itself(self, worker: Worker) -> bool:
        """Whether a suspect must stay alone on this worker."""
        return self._trial is not None and self._trial.is_alone and self._trial.worker is worker

    def remove(self, flight: Flight) -> bool:
        """Forget a cancelled suspect; whether it was one."""
        if flight in self._queue:
            self._queue.remove(flight)
            return True
        return False

    def take(self, which: Callable[[Flight], bool]) -> list[Flight]:
        """Forget those that are not on trial and for which this is true, and return them."""
        taken: list[Flight] = []
        left: deque[Flight] = deque()
        for flight in self._queue:
            (taken if which(flight) else left).append(flight)
        self._queue = left
        return taken

    def add(self, flights: Sequence[Flight], reason: LmiError) -> None:
        """Take the requests of a dead worker: finish, fail or queue each."""
        was_alone = len(flights) == 1
        for flight in flights:
            flight.worker = None
            flight.n_deaths += 1
            if flight.is_on_trial:
                self._trial = None
                flight.is_on_trial, flight.is_alone = False, True
            if was_alone and flight.n_deaths > 1:
                flight.on_error(_killer_error(reason))
            elif not self._is_complete(flight) and not self._cannot_resume(flight, reason):
                self._queue.append(flight)
        # Those that are probably innocent go first: they need not wait for a worker of their own.
        self._queue = deque(sorted(self._queue, key=lambda flight: flight.is_alone))

    @staticmethod
    def _is_complete(flight: Flight) -> bool:
        """Finish a request that died between its last id and the word that it was the last."""
        n_output = len(flight.request.resumed_ids) + len(flight.ids)
        if n_output < flight.request.sampling.max_tokens:
            return False
        flight.end(FinishReason.LENGTH)
        return True

    def _cannot_resume(self, flight: Flight, reason: LmiError) -> bool:
        """Fail a request whose state this backend cannot restore."""
        if flight.is_repeatable:
            return False
        resume = self._info.resume if flight.can_resume else Resume.NEVER
        if not flight.ids and resume is not Resume.NEVER:
            return False
        if resume is Resume.EXACT or (resume is Resume.CONTINUES and not _has_history(flight.request.sampling)):
            return False
        flight.on_error(
            EngineDeadError(
                "engine.died",
                f"the worker died after {len(flight.ids)} tokens of this request: {reason}",
                f"Backend {self._info.name!r} cannot go on with this request; send it again",
            )
        )
        return True


def _killer_error(reason: LmiError) -> LmiError:
    kind = OutOfMemoryError if isinstance(reason, OutOfMemoryError) else EngineDeadError
    return kind(
        "engine.killed-by-request",
        f"the worker died twice with this request, the last time with it alone: {reason}",
        "The request is not tried again; the worker's log says where it died",
    )


def _has_history(sampling: SamplingParams) -> bool:
    """Whether the next token depends on the output so far by more than the ids themselves."""
    return (
        sampling.constraint is not None
        or bool(sampling.bad_word_ids)
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
