# SPDX-License-Identifier: Apache-2.0
"""GPT-2."""

from __future__ import annotations

from typing import Any

from transformers_neuronx.base import NeuronModelBase
from transformers_neuronx.config import NeuronConfig


class GPT2ForSamplingWithContextBroadcasting(NeuronModelBase):
    def __init__(
        self,
        config: Any,
        batch_size: Any = 1,
        prompt_batch_size: int = 1,
        amp: str = "f32",
        tp_degree: int = 2,
        unroll: int | None = None,
        context_length_estimate: Any = None,
        context_unroll: int = 1,
        neuron_config: Any = NeuronConfig(),  # noqa: B008 - as recorded
        reorder_cache: bool = False,
        **kwargs: Any,
    ) -> None:
        self._set_up(
            config,
            neuron_config,
            batch_size=batch_size,
            amp=amp,
            tp_degree=tp_degree,
            n_positions=kwargs.get("n_positions", 2048),
            context_length_estimate=context_length_estimate,
            unroll=unroll,
        )

    def forward(self, input_ids: Any, cache_ids: Any = None, start_ids: Any = None) -> Any:
        return self._run(input_ids, cache_ids, start_ids)
