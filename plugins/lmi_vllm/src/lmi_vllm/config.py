# SPDX-License-Identifier: Apache-2.0
"""Options of the vllm backend: LMI's names first, then every further argument of vLLM's engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from lmi.api import Conflict, option
from lmi_vllm.arguments import EngineArguments
from lmi_vllm.options import AnswerOptions


class VLLMConfig(EngineArguments, AnswerOptions):
    """Options of the vllm backend."""

    adapters_switch: ClassVar[str] = "enable_lora"

    max_rolling_batch_size: int = option(
        256,
        description=(
            "Sequences that run at the same time in one copy of the model. Lower it when the cache is small or single "
            "streams must be fast."
        ),
        unit="sequences",
        ge=1,
        aliases=("max_num_seqs",),
    )
    tensor_parallel_degree: int = option(
        1,
        description="Devices one copy of the model is split over; must divide the model's attention heads.",
        unit="devices",
        ge=1,
        aliases=("tensor_parallel_size",),
    )

    @property
    def n_devices(self) -> int:
        """Devices one copy takes: each stage of the pipeline has tensor_parallel_degree of them."""
        return self.tensor_parallel_degree * self.pipeline_parallel_degree

    def conflicts(self) -> Iterator[Conflict]:
        """Everything that is wrong with these options together."""
        from lmi_vllm.rules import RULES

        for rule in RULES:
            yield from rule(self)
