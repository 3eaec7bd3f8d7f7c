# SPDX-License-Identifier: Apache-2.0
"""Options of LoRA adapters."""

from __future__ import annotations

from typing import ClassVar

from lmi.api import BackendConfig, option

DEFAULT_RANK = 16


class AdapterOptions(BackendConfig):
    """Whether adapters are served, how large they may be, and how many there is room for."""

    adapters_switch: ClassVar[str] = "enable_lora"

    enable_lora: bool = option(
        False,
        description=(
            "Serve LoRA adapters. Turn on only where there are some: it takes memory and speed; the pytorch way then "
            "runs without CUDA graphs. Engines built before need a build with it."
        ),
    )
    max_loras: int = option(
        4,
        description="Different adapters on the device at a time; requests for others wait. Each takes device memory.",
        unit="adapters",
        ge=1,
    )
    max_lora_rank: int = option(
        DEFAULT_RANK,
        description="Largest rank of an adapter. As small as your adapters allow.",
        unit="rank",
        ge=1,
    )
    max_cpu_loras: int | None = option(
        None,
        description="Adapters kept in the host's memory for the device, at least max_loras. Unset: max_loras.",
        unit="adapters",
        ge=1,
    )

    @property
    def n_adapter_places(self) -> int:
        """Different adapters that running requests may have between them."""
        return self.max_cpu_loras or self.max_loras
