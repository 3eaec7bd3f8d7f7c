# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on lmi-dist, as its small files, the names of the others and the options tell."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import (
    Accelerator,
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Severity,
    Target,
    context_problems,
    degree_problems,
    merging_problems,
    quantization_of,
    shape_of,
    unserved_adapters,
)
from lmi_hf.architectures import check_code, other_heads, other_task
from lmi_hf.lmi_dist.config import DistConfig
from lmi_hf.needs import check_method, check_peft

_SAFETENSORS, _PICKLES = ".safetensors", ".bin"


def find_problems(artifacts: ModelArtifacts, config: DistConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    shape = shape_of(artifacts)
    sizes = {
        "attention heads": shape.n_heads,
        "key-value heads": shape.n_kv_heads,
        "feed-forward numbers": shape.intermediate,
        "tokens of the vocabulary": shape.vocab,
    }
    otherwise = "or use option.rolling_batch=deepspeed, which splits unevenly"
    other = other_heads(artifacts)
    return [
        *([other_task(artifacts, ", ".join(other), "lmi-dist")] if other else []),
        *_check_encoder(artifacts),
        *check_code(artifacts, trust_remote_code=config.trust_remote_code),
        *degree_problems(artifacts, config.tensor_parallel_degree, sizes, otherwise),
        *context_problems(artifacts, config.max_model_len),
        *_check_quantization(artifacts, config),
        *_check_load_format(artifacts, config),
        *_check_adapters(artifacts),
        *_check_draft(artifacts, config),
        *_check_memory_share(config, target),
    ]


def _check_encoder(artifacts: ModelArtifacts) -> Iterator[Problem]:
    """Say that a model has an encoder, too: steps are those of a decoder alone."""
    if artifacts.config.get("is_encoder_decoder"):
        what = ", ".join(artifacts.architectures) or artifacts.model_type
        yield Problem(
            code="model.task-not-served",
            message=f"{what} has an encoder and a decoder; lmi-dist serves decoder-only models",
            hint="Use a causal language model",
            path=artifacts.folder,
        )


def _check_adapters(artifacts: ModelArtifacts) -> list[Problem]:
    """An adapter that is served as the model is merged into its base; those beside a model are left alone."""
    if artifacts.format is ArtifactFormat.ADAPTER:
        return [*check_peft("an adapter"), *merging_problems(artifacts)]
    hint = "Use option.rolling_batch=vllm with option.enable_lora=true, or serve an adapter's own folder"
    return unserved_adapters(artifacts, "lmi-dist serves one model as it is", hint)


def _check_load_format(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    """Whether the weights are there in the form that is asked for; that there are some is looked at for all."""
    ending = {"safetensors": _SAFETENSORS, "pt": _PICKLES}.get(config.load_format)
    names = artifacts.weight_files
    if ending is None or not names or artifacts.format is not ArtifactFormat.PRETRAINED:
        return
    # Where both are there, only safetensors are listed as the weights, and they alone are fetched.
    seen = names if artifacts.is_elsewhere else [name for name in artifacts.files if "/" not in name]
    if not any(name.endswith(ending) for name in seen):
        fetched = "would be fetched of it" if artifacts.is_elsewhere else "is there"
        yield Problem(
            code="weights.missing",
            message=f"load_format is {config.load_format}, and no file that ends in {ending} {fetched}; "
            f"{names[0]} is one of the weights",
            hint="Set option.load_format=auto",
            path=artifacts.folder,
            fields=("load_format",),
        )


def _check_draft(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    """Whether the model that guesses has the same token ids, where its files were seen."""
    draft = artifacts.further.get("speculative_draft_model")
    if draft is None or not config.n_proposed:
        return
    n_draft, n_model = shape_of(draft).vocab, shape_of(artifacts).vocab
    if n_draft and n_model and n_draft != n_model:
        yield Problem(
            code="engine.draft-misfit",
            message=f"the draft model has {n_draft} token ids, the model {n_model}",
            hint="Use a draft model with the same tokenizer",
            path=draft.folder,
            fields=("speculative_draft_model",),
        )


def _check_memory_share(config: DistConfig, target: Target) -> Iterator[Problem]:
    if target.accelerator is Accelerator.CPU and config.is_changed("gpu_memory_utilization"):
        yield Problem(
            code="config.no-effect",
            message=f"gpu_memory_utilization={config.gpu_memory_utilization:g} does nothing: the model runs on CPU, "
            "where the cache takes half of the memory left",
            hint="Remove option.gpu_memory_utilization",
            severity=Severity.WARNING,
            fields=("gpu_memory_utilization",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    asked, found = config.quantize, str(quantization_of(artifacts).get("quant_method") or "")
    if found == "squeezellm":
        yield Problem(
            code="model.quantization-not-served",
            message="the checkpoint is compressed with squeezellm, which no maintained library reads",
            hint="Use a checkpoint of the same model compressed with gptq or awq",
            path=artifacts.folder,
        )
    elif asked is not None and not found:
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or remove option.quantize",
            path=artifacts.folder,
            fields=("quantize",),
        )
    elif asked is not None and found not in (asked, "unknown"):
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is compressed with {found}",
            hint="Remove option.quantize",
            path=artifacts.folder,
            fields=("quantize",),
        )
    if found and config.tensor_parallel_degree > 1:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {config.tensor_parallel_degree}, and the checkpoint is compressed with "
            f"{found}: transformers splits whole weights only",
            hint="Set option.tensor_parallel_degree=1, or use option.rolling_batch=vllm, which splits compressed "
            "weights",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )
    if found and config.load_format == "dummy":
        yield Problem(
            code="config.not-supported",
            message=f"load_format is dummy, which makes whole weights, and the checkpoint is compressed with {found}",
            hint="Remove option.load_format",
            path=artifacts.folder,
            fields=("load_format",),
        )
    yield from check_method(found, *(("quantize",) if asked else ()))
