# SPDX-License-Identifier: Apache-2.0
"""The toy model: logits that are a pure function of the ids so far, the same on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_N_SEEN = 6
"""Ids at the end that the next one depends on, together with how many there are."""


class ToyModel:
    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        seen = np.asarray([len(ids), *ids[-_N_SEEN:]], "<i4").tobytes()
        random = np.random.Generator(np.random.Philox(zlib.crc32(seen)))
        return 2 * random.standard_normal(self.vocab_size, np.float32)
