# SPDX-License-Identifier: Apache-2.0
"""What a load of requests needs: cache, the degree of a copy, and copies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from lmi.planning.fit import Fit


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that run at the same time.

    Args:
        concurrency: how many.
        input_tokens: of each prompt.
        output_tokens: of each answer.
    """

    concurrency: int
    input_tokens: int
    output_tokens: int

    @property
    def n_tokens(self) -> int:
        """Of one sequence at its end."""
        return self.input_tokens + self.output_tokens


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a load is met.

    Args:
        fit: the split of a copy.
        cache_bytes: that all sequences take at their end, over all devices of all copies.
        n_sequences: that a copy runs at a time.
        n_copies: copies that are needed.
        n_machines: machines for them.
    """

    fit: Fit
    cache_bytes: int
    n_sequences: int
    n_copies: int
    n_machines: int


def answer(demand: Demand, fits: Sequence[Fit], n_devices: int) -> Answer | None:
    """The way to meet a load with the fewest machines, then the fewest devices; None where no split does.

    Args:
        demand: the load.
        fits: ways to split a copy over devices of the machine.
        n_devices: of a machine.
    """
    ways = [way for fit in fits if (way := _met(demand, fit, n_devices)) is not None]
    return min(ways, key=lambda way: (way.n_machines, way.n_copies * way.fit.degree), default=None)


def _met(demand: Demand, fit: Fit, n_devices: int) -> Answer | None:
    n_sequences = fit.sequences_of(demand.n_tokens)
    if not n_sequences or fit.degree > n_devices:
        return None
    n_copies = math.ceil(demand.concurrency / n_sequences)
    cache_bytes = demand.concurrency * round(fit.cache.bytes_of(demand.n_tokens) * fit.cache_parts)
    n_machines = math.ceil(n_copies / (n_devices // fit.degree))
    return Answer(fit=fit, cache_bytes=cache_bytes, n_sequences=n_sequences, n_copies=n_copies, n_machines=n_machines)
