# SPDX-License-Identifier: Apache-2.0
"""GPT-J."""

from __future__ import annotations

from typing import Any

from transformers_neuronx._offsets import OneByOne


class GPTJForSampling(OneByOne):
    def __init__(
        self,
        config: Any,
        batch_size: int = 1,
        amp: str = "f32",
        tp_degree: int = 2,
        unroll: int | None = None,
        init_n_active_tokens: int | None = None,
        neuron_config: Any = None,
        **kwargs: Any,
    ) -> None:
        n_positions = kwargs.get("n_positions", 2048)
        self._set_up(config, batch_size, n_positions, neuron_config, amp=amp, tp_degree=tp_degree, unroll=unroll)

    def forward(self, input_ids: Any, cache_offset: Any, start_ids: Any = None) -> Any:
        return self._run(input_ids, cache_offset)
