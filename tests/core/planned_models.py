# SPDX-License-Identifier: Apache-2.0
"""Models as artifacts without files: the published sizes of well-known ones."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts, ModelShape
from lmi.api.artifacts import WeightSummary
from lmi.testing.tiny_tokenizer import write_tokenizer

LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
    "max_position_embeddings": 4096, "torch_dtype": "float16", "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_2_13B = {
    **LLAMA_2_7B, "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
    "intermediate_size": 13824,
}  # fmt: skip
LLAMA_3_8B = {
    **LLAMA_2_7B, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_3_70B = {
    **LLAMA_3_8B, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
}  # fmt: skip
MISTRAL_7B = {
    **LLAMA_2_7B, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_key_value_heads": 8,
    "intermediate_size": 14336, "sliding_window": 4096, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
}  # fmt: skip
FALCON_7B = {
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
    "num_attention_heads": 71, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024,
    "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V2 = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "hidden_size": 5120,
    "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "vocab_size": 102400,
    "intermediate_size": 12288, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA_2_9B = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 4096,
    "vocab_size": 256000, "intermediate_size": 14336, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA_3_12B = {
    **GEMMA_2_9B, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 3840,
    "num_hidden_layers": 48, "sliding_window": 1024, "sliding_window_pattern": 6, "max_position_embeddings": 131072,
}  # fmt: skip
JAMBA = {
    "architectures": ["JambaForCausalLM"], "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4,
    "vocab_size": 65536, "intermediate_size": 14336, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048,
    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "full_attention_interval": 4, "vocab_size": 151936, "intermediate_size": 5120, "torch_dtype": "bfloat16",
}  # fmt: skip

N_PARAMETERS = {"7B": 6_738_415_616, "13B": 13_015_864_320, "70B": 70_553_706_496}
"""Numbers that the published checkpoints of Llama-2-7B, Llama-2-13B and Llama-3-70B store."""


def shape(config: dict[str, Any]) -> ModelShape:
    return ModelShape.of(config)


def artifacts_of(
    config: dict[str, Any],
    n_parameters: int,
    dtype: str = "BF16",
    *,
    folder: str = "/models/it",
    model_format: ArtifactFormat = ArtifactFormat.PRETRAINED,
) -> ModelArtifacts:
    """A model whose headers were read: all its numbers in one type, embedding and head beside the layers."""
    size = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    n_linear = n_parameters - 2 * config["vocab_size"] * config["hidden_size"]
    return ModelArtifacts(
        folder=folder,
        format=model_format,
        config=config,
        architectures=tuple(config["architectures"]),
        model_type=config["model_type"],
        weight_files=("model.safetensors",),
        files={"model.safetensors": n_parameters * size + 100},
        weights=WeightSummary(
            n_bytes=n_parameters * size,
            n_parameters=n_parameters,
            bytes_by_dtype={dtype: n_parameters * size},
            n_linear_parameters=n_linear,
            n_linear_bytes=n_linear * size,
        ),
        max_context_tokens=config.get("max_position_embeddings", 0),
    )


def write_sparse(folder: Path, config: dict[str, Any], dtype: str = "BF16") -> Path:
    """A Llama as a folder whose weights take no room: a right header, and a file as long as it says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    write_tokenizer(folder)
    header, end = {}, 0
    for name, sizes in _tensors(config):
        n_bytes = prod(sizes) * {"F32": 4, "BF16": 2, "F16": 2}[dtype]
        header[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    n_kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocab, hidden]
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        for name, n_out in (("q", hidden), ("k", n_kv), ("v", n_kv), ("o", hidden)):
            yield f"{start}.self_attn.{name}_proj.weight", [n_out, hidden]
        yield f"{start}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{start}.mlp.up_proj.weight", [inner, hidden]
        yield f"{start}.mlp.down_proj.weight", [hidden, inner]
        yield f"{start}.input_layernorm.weight", [hidden]
        yield f"{start}.post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocab, hidden]
