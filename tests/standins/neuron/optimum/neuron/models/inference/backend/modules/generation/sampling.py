# SPDX-License-Identifier: Apache-2.0
"""What the device samples with."""

from __future__ import annotations

from typing import Any

import torch


def prepare_sampling_params(
    batch_size: int,
    top_k: Any = [1],  # noqa: B006 - as recorded
    top_p: Any = [1.0],  # noqa: B006
    temperature: Any = [1.0],  # noqa: B006
) -> torch.Tensor:
    columns = [torch.tensor(each, dtype=torch.float32) for each in (top_k, top_p, temperature)]
    return torch.stack([each.broadcast_to(batch_size) if len(each) == 1 else each for each in columns], dim=1)
