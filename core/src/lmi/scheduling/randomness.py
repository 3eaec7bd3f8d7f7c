# SPDX-License-Identifier: Apache-2.0
"""One random number a token, named by (seed, position): neighbours, preemption and crashes cannot change it."""

from __future__ import annotations

import numpy as np
from numpy.random import Philox

BLOCK = 64
"""Numbers computed at a time; a multiple of the four that one count of Philox4x64 gives."""


class UniformStream:
    """The uniform numbers of one seed, readable at any position in any order.

    Args:
        seed: unsigned 64-bit.
    Source:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): Philox4x64-10 with the seed as key and
        the position as counter; number p is the p-th raw output, its top 53 bits as a fraction.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._first = -BLOCK
        self._block: list[float] = []

    def at(self, position: int) -> float:
        """The number at this position, in [0, 1).

        Args:
            position: index of the output token, from 0.
        """
        offset = position - self._first
        if not 0 <= offset < BLOCK:
            offset = position % BLOCK
            self._first = position - offset
            raw = Philox(key=self._seed, counter=self._first // 4).random_raw(BLOCK)
            self._block = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
        return self._block[offset]
