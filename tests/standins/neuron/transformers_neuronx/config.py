# SPDX-License-Identifier: Apache-2.0
"""What a model is compiled with."""

from __future__ import annotations

import json
from typing import Any

from transformers_neuronx.constants import GQA, Layout

_FLOATS = (None, "float32", "float16", "bfloat16")


class QuantizationConfig:
    def __init__(
        self,
        quant_dtype: str = "s8",
        dequant_dtype: str = "f16",
        quantize_method: str = "vector_dynamic",
        quantize_attn: bool = True,
        no_quantize_list: list[str] = [],  # noqa: B006 - as recorded
    ) -> None:
        if quant_dtype != "s8" or dequant_dtype not in ("f32", "f16", "bf16"):
            raise NotImplementedError(f"{quant_dtype}, {dequant_dtype} is not implemented")
        self.quant_dtype = quant_dtype
        self.dequant_dtype = dequant_dtype
        self.quantize_method = quantize_method
        self.quantize_attn = quantize_attn
        self.no_quantize_list = no_quantize_list


class ContinuousBatchingConfig:
    def __init__(self, **kwargs: Any) -> None:
        self.max_num_seqs: int = kwargs.pop("max_num_seqs")
        if kwargs:
            raise AssertionError(f"unexpected arguments: {kwargs}")

    @property
    def batch_size_for_shared_caches(self) -> int:
        return self.max_num_seqs


class GenerationConfig:
    def __init__(
        self,
        *,
        max_length: int | None = None,
        do_sample: bool = False,
        top_k: int = 50,
        top_p: float = 1.0,
        top_p_min_tokens: int = 1,
        global_top_k: int | None = None,
        eos_token_id: int | None = None,
        temperature: float = 1.0,
        dynamic: bool = False,
        deterministic: bool = False,
        per_batch_line: bool = False,
    ) -> None:
        self.max_length = max_length
        self.do_sample = do_sample
        self.top_k = top_k
        self.top_p = top_p
        self.top_p_min_tokens = top_p_min_tokens
        self.global_top_k = global_top_k
        self.eos_token_id = eos_token_id
        self.temperature = temperature
        self.dynamic = dynamic
        self.deterministic = deterministic
        self.per_batch_line = per_batch_line


class NeuronConfig:
    def __init__(
        self,
        *,
        sparse_attn: Any = None,
        quant: QuantizationConfig | None = None,
        kv_cache_quant: Any = None,
        continuous_batching: ContinuousBatchingConfig | None = None,
        attention_layout: Layout = Layout.HSB,
        collectives_layout: Layout = Layout.HSB,
        cache_layout: Layout = Layout.SBH,
        padding_side: str = "left",
        group_query_attention: GQA | None = None,
        sequence_parallel_norm: bool = False,
        sequence_parallel_norm_threshold: int = 2048,
        bf16_rms_norm: bool = False,
        on_device_embedding: bool = False,
        on_device_generation: GenerationConfig | None = None,
        all_reduce_dtype: str | None = None,
        cast_logits_dtype: str = "float32",
        fuse_qkv: bool = False,
        qkv_tiling: bool = False,
        weight_tiling: bool = False,
        mlp_in_weight_tiling_permute_order: list[int] = [1, 2, 0, 3],  # noqa: B006 - as recorded
        mlp_out_weight_tiling_permute_order: list[int] = [1, 2, 0, 3],  # noqa: B006
        log_softmax_scores: bool = False,
        shard_over_sequence: bool = False,
        output_all_logits: bool = False,
        attn_output_transposed: bool = False,
        fused_rmsnorm_qkv: bool = False,
        fused_rmsnorm_mlp: bool = False,
        mlp_out_weight_transpose: bool = False,
        fuse_mlp: bool = False,
        is_eagle_target: bool = False,
        is_eagle_draft: bool = False,
        has_pre_attention_norm: bool = True,
        compilation_worker_count: int | None = None,
        duplicate_q_weight_sos: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise AssertionError(f"unexpected arguments: {kwargs}")
        if all_reduce_dtype not in _FLOATS or cast_logits_dtype not in _FLOATS[1:]:
            raise AssertionError(f"{all_reduce_dtype}, {cast_logits_dtype}: no number type")
        self.quant = quant
        self.continuous_batching = continuous_batching
        self.attention_layout = Layout(attention_layout)
        self.collectives_layout = Layout(collectives_layout)
        self.cache_layout = Layout(cache_layout)
        self.padding_side = "right" if continuous_batching else padding_side
        self.group_query_attention = None if group_query_attention is None else GQA(group_query_attention)
        self.sequence_parallel_norm = sequence_parallel_norm
        self.on_device_embedding = on_device_embedding
        self.on_device_generation = on_device_generation
        self.all_reduce_dtype = all_reduce_dtype
        self.cast_logits_dtype = cast_logits_dtype
        self.fuse_qkv = fuse_qkv
        self.shard_over_sequence = shard_over_sequence

    def to_json(self) -> str:
        return json.dumps(vars(self), default=_plain)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Layout | GQA) else vars(value)
