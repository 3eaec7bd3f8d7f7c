# SPDX-License-Identifier: Apache-2.0
"""What a tiny checkpoint of each architecture holds: the fields of its ``config.json`` and the shape of every tensor.

All have 2 layers, hidden size 64, 4 heads and 300 token ids. Names are those that ``save_pretrained`` writes, for
Mixtral the ones of the published checkpoints (three matrices an expert). Heads are tied to the embedding where the
published models tie them, and then are no tensor of their own; only Bloom's is not: its normed embedding outweighs two
layers, and a tied head would repeat the last id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 300
BOS_ID = 256
EOS_ID = 257
PAD_ID = 258
CONTEXT_TOKENS = 512
INITIALIZER_RANGE = 0.08
"""Standard deviation of the weights: large enough that the greedy id depends on the whole context."""

N_LAYERS = 2
HIDDEN = 64
N_HEADS = 4
N_KV_HEADS = 2
HEAD_DIM = HIDDEN // N_HEADS
WIDE_HEAD_DIM = 32
"""Numbers in a head of ``llama-wide``, for engines whose kernels take no narrower ones."""

MLP = 2 * HIDDEN
WIDE_MLP = 4 * HIDDEN
"""Width of the architectures whose configuration has no field for it, or leaves it at four times the hidden size."""

MULTI_QUERY_WIDTH = HIDDEN + 2 * HEAD_DIM
"""Rows of one matrix for queries, keys and values where all heads share one key and one value head."""

N_EXPERTS = 4
OPT_POSITION_OFFSET = 2
"""OPT's table of positions begins with two rows that no token uses."""

Tensors = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """One architecture, tiny.

    Args:
        class_name: what ``config.json`` lists under ``architectures``.
        config: its other fields, without ids and type of the weights.
        tensors: name -> shape, in the order in which they are drawn.
        model_type: where it is not the architecture's own name.
    """

    class_name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    model_type: str = ""


def _linear(name: str, n_out: int, n_in: int, *, bias: bool = True) -> Tensors:
    return {f"{name}.weight": (n_out, n_in), **({f"{name}.bias": (n_out,)} if bias else {})}


def _transposed(name: str, n_out: int, n_in: int) -> Tensors:
    """A linear layer kept as GPT-2 keeps it: inputs first."""
    return {f"{name}.weight": (n_in, n_out), f"{name}.bias": (n_out,)}


def _norm(name: str) -> Tensors:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def _attention(
    name: str,
    out_name: str,
    *,
    width: int = HIDDEN,
    kv_width: int = HIDDEN,
    bias: bool = True,
    out_bias: bool = True,
) -> Tensors:
    """Attention with a matrix each for queries, keys and values."""
    return {
        **_linear(f"{name}.q_proj", width, HIDDEN, bias=bias),
        **_linear(f"{name}.k_proj", kv_width, HIDDEN, bias=bias),
        **_linear(f"{name}.v_proj", kv_width, HIDDEN, bias=bias),
        **_linear(f"{name}.{out_name}", HIDDEN, width, bias=out_bias),
    }


def _model(embeddings: Tensors, layers: str, layer: Tensors, last: Tensors) -> Tensors:
    """Embeddings, the layer once for each number behind ``layers``, and what comes after the layers."""
    numbered = {f"{layers}{i}.{name}": shape for i in range(N_LAYERS) for name, shape in layer.items()}
    return {**embeddings, **numbered, **last}


def _llama_like(mlp: Tensors, *, attention_bias: bool = False, head_dim: int = HEAD_DIM) -> Tensors:
    widths = {"width": N_HEADS * head_dim, "kv_width": N_KV_HEADS * head_dim}
    layer = {
        "input_layernorm.weight": (HIDDEN,),
        **_attention("self_attn", "o_proj", **widths, bias=attention_bias, out_bias=False),
        "post_attention_layernorm.weight": (HIDDEN,),
        **mlp,
    }
    last = {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB_SIZE, HIDDEN)}
    return _model({"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN)}, "model.layers.", layer, last)


def _gated_mlp(name: str, gate: str, up: str, down: str) -> Tensors:
    return {
        **_linear(f"{name}.{gate}", MLP, HIDDEN, bias=False),
        **_linear(f"{name}.{up}", MLP, HIDDEN, bias=False),
        **_linear(f"{name}.{down}", HIDDEN, MLP, bias=False),
    }


def _experts() -> Tensors:
    tensors = _linear("block_sparse_moe.gate", N_EXPERTS, HIDDEN, bias=False)
    for expert in range(N_EXPERTS):
        tensors |= _gated_mlp(f"block_sparse_moe.experts.{expert}", "w1", "w3", "w2")
    return tensors


def _gpt2_like(linear: Callable[[str, int, int], Tensors], qkv_width: int) -> Tensors:
    layer = {
        **_norm("ln_1"),
        **linear("attn.c_attn", qkv_width, HIDDEN),
        **linear("attn.c_proj", HIDDEN, HIDDEN),
        **_norm("ln_2"),
        **linear("mlp.c_fc", WIDE_MLP, HIDDEN),
        **linear("mlp.c_proj", HIDDEN, WIDE_MLP),
    }
    embeddings: Tensors = {
        "transformer.wte.weight": (VOCAB_SIZE, HIDDEN),
        "transformer.wpe.weight": (CONTEXT_TOKENS, HIDDEN),
    }
    return _model(embeddings, "transformer.h.", layer, _norm("transformer.ln_f"))


def _gptj() -> Tensors:
    layer = {
        **_norm("ln_1"),
        **_attention("attn", "out_proj", bias=False, out_bias=False),
        **_linear("mlp.fc_in", WIDE_MLP, HIDDEN),
        **_linear("mlp.fc_out", HIDDEN, WIDE_MLP),
    }
    last = {**_norm("transformer.ln_f"), **_linear("lm_head", VOCAB_SIZE, HIDDEN)}
    return _model({"transformer.wte.weight": (VOCAB_SIZE, HIDDEN)}, "transformer.h.", layer, last)


def _phi() -> Tensors:
    layer = {
        **_norm("input_layernorm"),
        **_attention("self_attn", "dense"),
        **_linear("mlp.fc1", MLP, HIDDEN),
        **_linear("mlp.fc2", HIDDEN, MLP),
    }
    last = {**_norm("model.final_layernorm"), **_linear("lm_head", VOCAB_SIZE, HIDDEN)}
    return _model({"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN)}, "model.layers.", layer, last)


def _fused(attention: str, qkv_width: int, mlp_width: int, *, bias: bool = True, second_norm: bool = True) -> Tensors:
    """A layer that keeps queries, keys and values in one matrix."""
    return {
        **_norm("input_layernorm"),
        **_linear(f"{attention}.query_key_value", qkv_width, HIDDEN, bias=bias),
        **_linear(f"{attention}.dense", HIDDEN, HIDDEN, bias=bias),
        **(_norm("post_attention_layernorm") if second_norm else {}),
        **_linear("mlp.dense_h_to_4h", mlp_width, HIDDEN, bias=bias),
        **_linear("mlp.dense_4h_to_h", HIDDEN, mlp_width, bias=bias),
    }


def _gpt_neox() -> Tensors:
    last = {**_norm("gpt_neox.final_layer_norm"), "embed_out.weight": (VOCAB_SIZE, HIDDEN)}
    embeddings: Tensors = {"gpt_neox.embed_in.weight": (VOCAB_SIZE, HIDDEN)}
    return _model(embeddings, "gpt_neox.layers.", _fused("attention", 3 * HIDDEN, MLP), last)


def _falcon() -> Tensors:
    layer = _fused("self_attention", MULTI_QUERY_WIDTH, WIDE_MLP, bias=False, second_norm=False)
    embeddings: Tensors = {"transformer.word_embeddings.weight": (VOCAB_SIZE, HIDDEN)}
    return _model(embeddings, "transformer.h.", layer, _norm("transformer.ln_f"))


def _bloom() -> Tensors:
    embeddings: Tensors = {
        "transformer.word_embeddings.weight": (VOCAB_SIZE, HIDDEN),
        **_norm("transformer.word_embeddings_layernorm"),
    }
    last = {**_norm("transformer.ln_f"), "lm_head.weight": (VOCAB_SIZE, HIDDEN)}
    return _model(embeddings, "transformer.h.", _fused("self_attention", 3 * HIDDEN, WIDE_MLP), last)


def _opt() -> Tensors:
    layer = {
        **_norm("self_attn_layer_norm"),
        **_attention("self_attn", "out_proj"),
        **_norm("final_layer_norm"),
        **_linear("fc1", MLP, HIDDEN),
        **_linear("fc2", HIDDEN, MLP),
    }
    embeddings: Tensors = {
        "model.decoder.embed_tokens.weight": (VOCAB_SIZE, HIDDEN),
        "model.decoder.embed_positions.weight": (CONTEXT_TOKENS + OPT_POSITION_OFFSET, HIDDEN),
    }
    return _model(embeddings, "model.decoder.layers.", layer, _norm("model.decoder.final_layer_norm"))


_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": INITIALIZER_RANGE,
    "attention_dropout": 0.0,
}
_MLP_SIZES: dict[str, Any] = {**_SIZES, "intermediate_size": MLP, "tie_word_embeddings": False}
_LLAMA_LIKE: dict[str, Any] = {
    **_MLP_SIZES,
    "num_key_value_heads": N_KV_HEADS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
_GPT2_LIKE: dict[str, Any] = {
    "n_embd": HIDDEN,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": CONTEXT_TOKENS,
    "n_inner": None,
    "initializer_range": INITIALIZER_RANGE,
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}

_LLAMA = {**_LLAMA_LIKE, "attention_bias": False, "mlp_bias": False}
_LLAMA_WIDE = {**_LLAMA, "head_dim": WIDE_HEAD_DIM}
_MISTRAL = {**_LLAMA_LIKE, "sliding_window": 16}  # shorter than half of the prompts, so that one not kept shows
_MIXTRAL = {
    **_LLAMA_LIKE,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": N_EXPERTS,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
}
_QWEN2 = {**_LLAMA_LIKE, "use_sliding_window": False, "sliding_window": None, "max_window_layers": N_LAYERS}
_PHI = {
    **_MLP_SIZES,
    "num_key_value_heads": N_HEADS,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": False,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
_GPT_NEOX = {
    **_MLP_SIZES,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.5,
    "rotary_emb_base": 10000,
    "use_parallel_residual": True,
    "attention_bias": True,
    "hidden_dropout": 0.0,
}
_GPTJ = {**_GPT2_LIKE, "activation_function": "gelu_new", "rotary_dim": 8, "tie_word_embeddings": False}
_GPT2 = {**_GPT2_LIKE, "activation_function": "gelu_new", "tie_word_embeddings": True}
_GPT_BIGCODE = {
    **_GPT2_LIKE,
    "activation_function": "gelu_pytorch_tanh",
    "multi_query": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
_FALCON = {
    **_SIZES,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "alibi": False,
    "bias": False,
    "multi_query": True,
    "new_decoder_architecture": False,
    "parallel_attn": True,
    "hidden_dropout": 0.0,
    "tie_word_embeddings": True,
}
_OPT = {
    **_SIZES,
    "init_std": INITIALIZER_RANGE,
    "ffn_dim": MLP,
    "word_embed_proj_dim": HIDDEN,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "enable_bias": True,
    "dropout": 0.0,
    "tie_word_embeddings": True,
}
_BLOOM = {
    "initializer_range": INITIALIZER_RANGE,
    "layer_norm_epsilon": 1e-5,
    "hidden_size": HIDDEN,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "seq_length": CONTEXT_TOKENS,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "tie_word_embeddings": False,
}

_MLP = _gated_mlp("mlp", "gate_proj", "up_proj", "down_proj")
SHAPES: dict[str, Shape] = {
    "llama": Shape("LlamaForCausalLM", _LLAMA, _llama_like(_MLP)),
    "llama-wide": Shape("LlamaForCausalLM", _LLAMA_WIDE, _llama_like(_MLP, head_dim=WIDE_HEAD_DIM), "llama"),
    "gpt2": Shape("GPT2LMHeadModel", _GPT2, _gpt2_like(_transposed, 3 * HIDDEN)),
    "mistral": Shape("MistralForCausalLM", _MISTRAL, _llama_like(_MLP)),
    "mixtral": Shape("MixtralForCausalLM", _MIXTRAL, _llama_like(_experts())),
    "qwen2": Shape("Qwen2ForCausalLM", _QWEN2, _llama_like(_MLP, attention_bias=True)),
    "phi": Shape("PhiForCausalLM", _PHI, _phi()),
    "gpt_neox": Shape("GPTNeoXForCausalLM", _GPT_NEOX, _gpt_neox()),
    "gptj": Shape("GPTJForCausalLM", _GPTJ, _gptj()),
    "gpt_bigcode": Shape("GPTBigCodeForCausalLM", _GPT_BIGCODE, _gpt2_like(_linear, MULTI_QUERY_WIDTH)),
    "falcon": Shape("FalconForCausalLM", _FALCON, _falcon()),
    "opt": Shape("OPTForCausalLM", _OPT, _opt()),
    "bloom": Shape("BloomForCausalLM", _BLOOM, _bloom()),
}
"""``model_type``, or a name of our own -> what a tiny checkpoint of it holds."""
