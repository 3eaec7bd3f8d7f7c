# SPDX-License-Identifier: Apache-2.0
"""What a run is to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmi.offline.prompts import Prompt
from lmi.offline.records import Records


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be answered.

    Args:
        prompts: what is missing, in order.
        n_prompts: how many those are.
        records: where the answers go.
        n_at_once: how many are asked at the same time; None for as many as fit the model's batches.
    """

    prompts: Iterator[Prompt]
    n_prompts: int
    records: Records
    n_at_once: int | None = None
