# SPDX-License-Identifier: Apache-2.0
"""Tiny random models in the pretrained format, of any configuration that transformers has, written in a second.

``lmi.testing.checkpoints`` writes the usual ones without torch; this is for the others: more layers, another window.

The weights are random but large (``initializer_range`` 0.08), so greedy tokens depend on the whole context and a
mistake in a cache shows at once. transformers is imported inside the functions only: tests of the server process
import this module too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmi.testing.shapes import BOS_ID, CONTEXT_TOKENS, EOS_ID, PAD_ID, VOCAB_SIZE
from lmi.testing.tiny_tokenizer import write_tokenizer

_SMALL: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
_LLAMA_LIKE: dict[str, Any] = {
    **_SMALL,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "pad_token_id": PAD_ID,
}
_GPT2_LIKE: dict[str, Any] = {
    **_SMALL,
    "n_embd": 64,
    "n_head": 4,
    "n_positions": CONTEXT_TOKENS,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_LLAMA_LIKE, "num_hidden_layers": 2}),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "num_hidden_layers": 2, "sliding_window": 16}),
    "mixtral": (
        "MixtralConfig",
        {**_LLAMA_LIKE, "num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2": ("Qwen2Config", {**_LLAMA_LIKE, "num_hidden_layers": 2}),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "num_hidden_layers": 2, "head_dim": 24}),
    "phi": ("PhiConfig", {**_LLAMA_LIKE, "num_hidden_layers": 2, "num_key_value_heads": 4}),
    "gemma2": (
        "Gemma2Config",
        {**_LLAMA_LIKE, "num_hidden_layers": 2, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {**_LLAMA_LIKE, "num_hidden_layers": 2, "num_key_value_heads": 4, "hidden_dropout": 0.0},
    ),
    "gpt2": ("GPT2Config", {**_GPT2_LIKE, "n_layer": 2}),
    "gptj": ("GPTJConfig", {**_GPT2_LIKE, "n_layer": 2, "rotary_dim": 8}),
    "gpt_bigcode": ("GPTBigCodeConfig", {**_GPT2_LIKE, "n_layer": 2, "multi_query": True}),
    "opt": (
        "OPTConfig",
        {
            **_SMALL,
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 64,
            "max_position_embeddings": CONTEXT_TOKENS,
            "init_std": 0.08,
            "dropout": 0.0,
            "pad_token_id": PAD_ID,
            "tie_word_embeddings": False,
        },
    ),
    "bloom": (
        "BloomConfig",
        {
            **_SMALL,
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.08,
            "tie_word_embeddings": False,
        },
    ),
    "falcon": (
        "FalconConfig",
        {
            **_SMALL,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT_TOKENS,
            "initializer_range": 0.08,
            "tie_word_embeddings": False,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "mamba": (
        "MambaConfig",
        {**_SMALL, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.08},
    ),
}
"""Architecture name -> (configuration class of transformers, its arguments)."""


def write_tiny_llama(
    folder: Path | str,
    *,
    n_layers: int = 2,
    seed: int = 0,
    context_tokens: int = CONTEXT_TOKENS,
    dtype: str = "float32",
    **config: Any,
) -> Path:
    """Write a random Llama: hidden 64, 4 heads, 2 key-value heads, 300 token ids.

    Args:
        folder: made if it does not exist.
        n_layers: decoder layers.
        seed: of the weights; the same seed gives the same files.
        context_tokens: ``max_position_embeddings``.
        dtype: of the saved weights, as torch names it.
        config: further fields of ``LlamaConfig``.
    Returns:
        The folder.
    """
    fields = {"num_hidden_layers": n_layers, "max_position_embeddings": context_tokens, **config}
    return write_tiny("llama", folder, seed=seed, dtype=dtype, **fields)


def write_tiny(arch: str, folder: Path | str, *, seed: int = 0, dtype: str = "float32", **config: Any) -> Path:
    """Write a random model of an architecture of ARCHITECTURES, with a byte-level tokenizer; return its folder."""
    import torch
    import transformers

    name, fields = ARCHITECTURES[arch]
    model_config = getattr(transformers, name)(**{**fields, **config})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(model_config).to(getattr(torch, dtype))
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = EOS_ID
    model.save_pretrained(path)
    write_tokenizer(path)
    return path
