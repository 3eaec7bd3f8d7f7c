# SPDX-License-Identifier: Apache-2.0
"""BLOOM."""

from __future__ import annotations

from typing import Any

from transformers_neuronx.base import NeuronModelBase


class BloomForSampling(NeuronModelBase):
    def __init__(
        self,
        config: Any,
        *,
        n_positions: Any = 2048,
        batch_size: Any = 1,
        amp: str = "f32",
        tp_degree: int = 2,
        context_length_estimate: Any = None,
        context_unroll: int | None = None,
        unroll: int | None = None,
        neuron_config: Any = None,
        **kwargs: Any,
    ) -> None:
        self._set_up(
            config,
            neuron_config,
            batch_size=batch_size,
            amp=amp,
            tp_degree=tp_degree,
            n_positions=n_positions,
            context_length_estimate=context_length_estimate,
            unroll=unroll,
        )

    def forward(self, input_ids: Any, cache_ids: Any = None, start_ids: Any = None) -> Any:
        return self._run(input_ids, cache_ids, start_ids)
