# SPDX-License-Identifier: Apache-2.0
"""Which folder the library reads weights from, and checkpoints that are written in another form for it first."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmi.api import ArtifactFormat, EngineLoadError, ModelArtifacts, Progress
from lmi_neuronx.compiled import SPLIT_WEIGHTS, joined
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.families import TANH_GELUS

if TYPE_CHECKING:
    import torch

REWRITTEN_FAMILIES = frozenset({"gpt2", "gpt_bigcode"})
"""Families that transformers reads and writes as split weights first: the names in a checkpoint of GPT-2 as it is
published are not those that the library looks for, and for GPT BigCode it has no class but one that computes the
same."""


def weights_folder(artifacts: ModelArtifacts) -> str:
    """The folder that a compiled or a split model's weights are in, with their configuration."""
    inner = str(artifacts.path / artifacts.inner) if artifacts.inner else artifacts.folder
    if artifacts.format is not ArtifactFormat.NEURON:
        return inner
    checkpoint = joined(artifacts.inner, "checkpoint")
    has_whole = any(not name.startswith(f"{checkpoint}/") for name in artifacts.weight_files)
    return inner if has_whole else str(artifacts.path / checkpoint)


def must_rewrite(artifacts: ModelArtifacts) -> bool:
    """Whether the weights are to be written as split ones before the library reads them."""
    if artifacts.model_type not in REWRITTEN_FAMILIES or artifacts.format is ArtifactFormat.NEURON_SPLIT:
        return False
    folder = joined(artifacts.inner, "checkpoint") if artifacts.format is ArtifactFormat.NEURON else artifacts.inner
    return not artifacts.has_folder(joined(folder, SPLIT_WEIGHTS))


def write_split(
    artifacts: ModelArtifacts, config: NeuronxConfig, dtype: str, folder: str, library: Any, progress: Progress
) -> None:
    """Read a model with transformers, and write it with one file a tensor.

    Args:
        artifacts: the model.
        config: the options.
        dtype: LMI's name of the number type.
        folder: to write to.
        library: the module transformers_neuronx.
        progress: told the stages.
    Raises:
        EngineLoadError: it is a GPT BigCode that is no GPT-2 written otherwise.
    """
    import torch
    import transformers

    progress("read weights with transformers")
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    arguments: dict[str, Any] = {"torch_dtype": types[dtype], "trust_remote_code": config.trust_remote_code}
    if config.low_cpu_mem_usage:
        arguments["low_cpu_mem_usage"] = True
    model = transformers.AutoModelForCausalLM.from_pretrained(weights_folder(artifacts), **arguments)
    if artifacts.model_type == "gpt_bigcode":
        model = as_gpt2(model)
    progress("split weights")
    library.module.save_pretrained_split(model, folder)


def as_gpt2(model: Any) -> Any:
    """A GPT BigCode of transformers as the GPT-2 that computes the same.

    They differ in how matrices are stored, and in the one key and value that all heads share, which a GPT-2 has once a
    head. So the cache is as many times larger; nothing else changes.

    Args:
        model: GPTBigCodeForCausalLM.
    Raises:
        EngineLoadError: its activation is one that the library's GPT-2 has not.
    """
    import torch
    import transformers

    config = model.config
    if config.activation_function not in TANH_GELUS:
        raise EngineLoadError(
            "model.architecture-not-served",
            f"gpt_bigcode is served as GPT-2, and activation_function is {config.activation_function}",
            f"It serves models with {', '.join(TANH_GELUS)}; take another backend for this one",
        )
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon",
             "bos_token_id", "eos_token_id", "tie_word_embeddings")  # fmt: skip
    wanted = transformers.GPT2Config(
        activation_function="gelu_new", **{name: getattr(config, name) for name in names if hasattr(config, name)}
    )
    with torch.device("meta"):
        found: Any = transformers.GPT2LMHeadModel(wanted)  # type: ignore[no-untyped-call,unused-ignore]
    weights = _weights_of_gpt2(model.state_dict(), config)
    found.load_state_dict(weights, strict=False, assign=True)
    found.tie_weights()
    return found


def _weights_of_gpt2(weights: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """GPT-2 stores linear layers with their inputs first, and query, key and value of all heads one after the other."""
    found = {}
    for name, value in weights.items():
        changed = value
        if ".attn.c_attn." in name:
            changed = _with_keys_of_each_head(value, config)
        if value.dim() == 2 and any(f".{layer}." in name for layer in ("c_attn", "c_proj", "c_fc")):
            changed = changed.T.contiguous()
        found[name] = changed
    return found


def _with_keys_of_each_head(value: torch.Tensor, config: Any) -> torch.Tensor:
    """Rows of query, key and value; what is one head's is written once a head."""
    import torch

    n_heads, width = config.n_head, config.n_embd
    head_dim = width // n_heads
    if config.multi_query:
        query, key, text = torch.split(value, [width, head_dim, head_dim])
        repeats = [n_heads] + [1] * (value.dim() - 1)
        return torch.cat([query, key.repeat(repeats), text.repeat(repeats)])
    parts = value.reshape(n_heads, 3, head_dim, *value.shape[1:])  # head after head, each with its three
    return parts.transpose(0, 1).reshape(value.shape)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for split weights; the library reads them until the model is on the device."""
    return tempfile.TemporaryDirectory(prefix="lmi-neuronx-")


__all__ = ["REWRITTEN_FAMILIES", "as_gpt2", "must_rewrite", "temporary_folder", "weights_folder", "write_split"]
