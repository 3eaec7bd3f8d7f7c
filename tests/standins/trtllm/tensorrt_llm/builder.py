# SPDX-License-Identifier: Apache-2.0
"""Stand-in: what engines are built for, as recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tensorrt_llm._standin.others import SpeculativeDecodingMode
from tensorrt_llm.lora_helper import LoraConfig
from tensorrt_llm.plugin.plugin import PluginConfig


@dataclass(kw_only=True)
class BuildConfig:
    max_input_len: Any = 1024
    max_seq_len: Any = None
    opt_batch_size: Any = 8
    max_batch_size: Any = 2048
    max_beam_width: Any = 1
    max_num_tokens: Any = 8192
    opt_num_tokens: Any = None
    max_prompt_embedding_table_size: Any = 0
    kv_cache_type: Any = None
    gather_context_logits: Any = False
    gather_generation_logits: Any = False
    strongly_typed: Any = True
    force_num_profiles: Any = None
    profiling_verbosity: Any = "layer_names_only"
    enable_debug_output: Any = False
    max_draft_len: Any = 0
    speculative_decoding_mode: Any = SpeculativeDecodingMode.NONE
    use_refit: Any = False
    input_timing_cache: Any = None
    output_timing_cache: Any = "model.cache"
    lora_config: Any = field(default_factory=LoraConfig)
    weight_sparsity: Any = False
    weight_streaming: Any = False
    plugin_config: Any = field(default_factory=PluginConfig)
    use_strip_plan: Any = False
    max_encoder_input_len: Any = 1024
    dry_run: Any = False
    visualize_network: Any = None
    monitor_memory: Any = False
    use_mrope: Any = False
