# SPDX-License-Identifier: Apache-2.0
"""Names of the matrices that an adapter may change, family by family."""

from __future__ import annotations

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_LLAMA = (*_ATTENTION, *_GATED)
_EXPERTS = (*_LLAMA, "gate", "gate_up_proj", "experts", "shared_expert_gate", "w1", "w2", "w3")
_LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")

_OF_FAMILY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "granite", "cohere",
            "cohere2", "olmo", "olmo2", "stablelm", "internlm", "smollm3", "yi", "deci", "aquila",
        ),
        _LLAMA,
    ),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"), _EXPERTS),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), (*_EXPERTS, *_LATENT)),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon", "chatglm"), _FUSED),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn", "c_proj", "c_fc", "q_attn")),
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
    "gpt_neo": ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project_in", "project_out"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "mpt": ("Wqkv", "out_proj", "up_proj", "down_proj"),
    "dbrx": ("Wqkv", "out_proj", "layer", "w1", "v1", "w2"),
    "qwen": ("c_attn", "c_proj", "w1", "w2"),
    "baichuan": ("W_pack", "o_proj", *_GATED),
    "internlm2": ("wqkv", "wo", "w1", "w2", "w3"),
    "starcoder2": (*_ATTENTION, "c_fc", "c_proj"),
}  # fmt: skip

_AROUND = (
    "lm_head", "embed_out", "output_layer", "output", "embed_tokens", "wte", "wpe", "word_embeddings", "embed_in",
    "embed_positions", "tok_embeddings", "embedding", "score", "classifier",
)  # fmt: skip
"""Matrices outside the layers, under any of their names."""


def modules_of(model_type: str) -> tuple[str, ...]:
    """Names of the matrices in a layer of a family, as transformers calls them; empty where they are not known.

    Args:
        model_type: from ``config.json``.
    """
    return _OF_FAMILY.get(model_type, ())


def strange_modules(model_type: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some names that no matrix of a family has; empty where the family is not known.

    Args:
        model_type: from ``config.json``.
        wanted: names of matrices, with or without the path of the layer.
    """
    known = modules_of(model_type)
    return tuple(each for each in wanted if each.rpartition(".")[2] not in (*known, *_AROUND)) if known else ()


__all__ = ["modules_of", "strange_modules"]
