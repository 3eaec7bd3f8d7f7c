# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the plugins of a build, as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class PluginConfig:
    _dtype: Any = "float16"
    _bert_attention_plugin: Any = "auto"
    _gpt_attention_plugin: Any = "auto"
    _gemm_plugin: Any = None
    _gemm_swiglu_plugin: Any = None
    _fp8_rowwise_gemm_plugin: Any = None
    _qserve_gemm_plugin: Any = None
    _identity_plugin: Any = None
    _nccl_plugin: Any = "auto"
    _lora_plugin: Any = None
    _weight_only_groupwise_quant_matmul_plugin: Any = None
    _weight_only_quant_matmul_plugin: Any = None
    _smooth_quant_plugins: Any = True
    _smooth_quant_gemm_plugin: Any = None
    _layernorm_quantization_plugin: Any = None
    _rmsnorm_quantization_plugin: Any = None
    _quantize_per_token_plugin: Any = False
    _quantize_tensor_plugin: Any = False
    _moe_plugin: Any = "auto"
    _mamba_conv1d_plugin: Any = "auto"
    _low_latency_gemm_plugin: Any = None
    _low_latency_gemm_swiglu_plugin: Any = None
    _context_fmha: Any = True
    _bert_context_fmha_fp32_acc: Any = False
    _paged_kv_cache: Any = None
    _remove_input_padding: Any = True
    _reduce_fusion: Any = False
    _user_buffer: Any = False
    _tokens_per_block: Any = 64
    _use_paged_context_fmha: Any = False
    _use_fp8_context_fmha: Any = False
    _multiple_profiles: Any = False
    _paged_state: Any = True
    _streamingllm: Any = False
    _manage_weights: Any = False
    _use_fused_mlp: Any = True
    _pp_reduce_scatter: Any = False


def _public(name: str) -> property:
    return property(lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))


# As in the library, each field is read and set by its name without the underscore.
for _name in list(PluginConfig.__dataclass_fields__):
    setattr(PluginConfig, _name.removeprefix("_"), _public(_name))
