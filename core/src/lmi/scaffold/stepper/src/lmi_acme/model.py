# SPDX-License-Identifier: Apache-2.0
"""Stands where your model will: a slot's cache is the list of its ids, logits are drawn from it. Delete it then."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

VOCAB_SIZE = 300


def made_up_logits(ids: Sequence[int]) -> torch.Tensor:
    """Logits after these ids, float32, shape [VOCAB_SIZE]: always the same, and others after any other ids."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(list(ids)).encode()))
    return 3 * torch.randn(VOCAB_SIZE, generator=generator)
