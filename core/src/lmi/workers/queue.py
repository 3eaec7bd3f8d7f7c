# SPDX-License-Identifier: Apache-2.0
"""The requests of one model that no worker has: those that wait, and those whose worker died; and who goes where."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from lmi.api.backend import BackendInfo, Resume
from lmi.api.errors import LmiError
from lmi.workers.flight import Flight
from lmi.workers.gathering import Gathering
from lmi.workers.suspects import Suspects
from lmi.workers.worker import Worker

_N_QUEUED_AHEAD = 8
"""Requests a worker gets beyond its slots, so that a slot that becomes free never waits for the server."""


class RequestQueue:
    """Hands requests to workers that have room for them and hold their adapters, and keeps those that must wait.

    Args:
        info: the backend: whether and how it can resume.
        workers: the model's copies; they come and go.
        is_stalled: whether a worker hangs.
        batch_size: requests that wait for each other before they are handed out, at most; 1 for none.
        batch_delay_s: longest that they wait.
    """

    def __init__(
        self,
        info: BackendInfo,
        workers: Sequence[Worker],
        is_stalled: Callable[[Worker], bool],
        *,
        batch_size: int = 1,
        batch_delay_s: float = 0.0,
    ) -> None:
        self.n_slots = 0
        """Sequences a worker runs at once; 0 until it is known."""
        # What cannot resume waits here, where no worker's death can take it along.
        self._n_ahead = 0 if info.resume is Resume.NEVER else _N_QUEUED_AHEAD
        self._workers = workers
        self._is_stalled = is_stalled
        self._waiting: deque[list[Flight]] = deque()
        self._suspects = Suspects(info)
        self._gathering = Gathering(batch_size, batch_delay_s, self._hand_in) if batch_size > 1 else None

    def __iter__(self) -> Iterator[Flight]:
        """All that no worker has."""
        yield from self._gathering or ()
        for group in self._waiting:
            yield from group
        yield from self._suspects

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their first worker."""
        return sum(map(len, self._waiting)) + len(self._gathering or ())

    def submit(self, flights: list[Flight], *, is_first: bool = False) -> None:
        """Start requests that arrived together, on the worker with the fewest reserved tokens, or let them wait.

        Args:
            flights: the requests.
            is_first: if they wait, before all others, and not for a batch to fill.
        """
        if self._gathering is not None and not is_first and all(type(flight) is Flight for flight in flights):
            self._gathering.add(flights)
        else:
            self._hand_in(flights, is_first=is_first)

    def _hand_in(self, flights: list[Flight], *, is_first: bool = False) -> None:
        worker = None if self._suspects or self._waiting else self._freest(flights)
        if worker is not None:
            worker.submit(flights)
            return
        if is_first:
            self._waiting.appendleft(flights)
        else:
            self._waiting.append(flights)
        self.look()  # those before them may wait for an adapter that these do not need

    def add_suspects(self, flights: Sequence[Flight], reason: LmiError) -> None:
        """Take the requests of a dead worker: finish, fail or queue each."""
        self._suspects.add(flights, reason)

    def end_trial(self, flight: Flight) -> None:
        """The suspect on trial has produced enough or ended."""
        self._suspects.end_trial(flight)
        asyncio.get_running_loop().call_soon(self.hand_out)

    def remove(self, flight: Flight) -> None:
        """Forget a cancelled request."""
        if self._gathering is not None and self._gathering.take(lambda each: each is flight):
            return
        if not self._suspects.remove(flight):
            for group in self._waiting:
                if flight in group:
                    group.remove(flight)

    def take(self, which: Callable[[Flight], bool]) -> list[Flight]:
        """Forget those for which this is true, and return them."""
        taken = self._suspects.take(which)
        taken += self._gathering.take(which) if self._gathering is not None else ()
        waiting, self._waiting = self._waiting, deque()
        for group in waiting:
            left: list[Flight] = []
            for flight in group:
                (taken if which(flight) else left).append(flight)
            if left:
                self._waiting.append(left)
        return taken

    def look(self) -> None:
        """Something has changed: what waits may go on."""
        if self._suspects or self._waiting:
            asyncio.get_running_loop().call_soon(self.hand_out)

    def hand_out(self) -> None:
        """Hand out suspects one at a time, then what waits; what needs an adapter that nobody has is passed over."""
        while (suspect := next(filter(self._is_held, self._suspects.to_try), None)) is not None:
            idle = (worker for worker in self._holders([suspect]) if not worker.flights)
            worker = next(idle, None) if suspect.is_alone else self._freest([suspect])
            if worker is None:
                return
            self._suspects.start_trial(suspect)
            worker.submit([suspect])
        if not any(map(self._is_held, self._suspects)):
            while self._waiting and self._hand_out_next():
                pass

    def _hand_out_next(self) -> bool:
        """Hand out the first group that can go; whether there was one."""
        if self._freest(()) is None:  # the usual case: nobody has room, and nobody need be looked at
            return False
        for index, group in enumerate(self._waiting):
            worker = self._freest(group)
            if worker is not None:
                del self._waiting[index]
                if group:
                    worker.submit(group)
                return True
        return False

    def _is_held(self, flight: Flight) -> bool:
        """Whether a ready worker has the adapter of a request."""
        return bool(self._holders([flight]))

    def _holders(self, flights: Sequence[Flight]) -> list[Worker]:
        """The ready workers that have the adapters of requests."""
        adapters = {flight.request.adapter for flight in flights if flight.request.adapter}
        return [worker for worker in self._workers if worker.takes_requests and worker.adapters.hold(adapters)]

    def _freest(self, flights: Sequence[Flight]) -> Worker | None:
        """The holder with the fewest reserved tokens of those that have room; one that stalls only if all do."""
        most = self.n_slots + self._n_ahead if self.n_slots else 0
        free = [
            worker
            for worker in self._holders(flights)
            if len(worker.flights) < most and not self._suspects.has_for_itself(worker)
        ]
        if len(free) > 1:
            free.sort(key=lambda worker: (self._is_stalled(worker), worker.n_reserved_tokens))
        return free[0] if free else None
