# SPDX-License-Identifier: Apache-2.0
"""What would stop a model on this backend, from its config.json and the names of its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import differs, said
from lmi_trtllm.families import ARCHITECTURES, family_of
from lmi_trtllm.family_options import ORIGINAL_ROTARY_BASE, ORIGINAL_ROTARY_DIM

_ROTARY = ("llama", "internlm", "qwen")
_FAMILIES_OF_OPTION = {
    "use_fused_mlp": ("llama",),
    "rotary_base": _ROTARY,
    "rotary_dim": ("gptj",),
    "rotary_scaling_type": _ROTARY,
    "rotary_scaling_factor": _ROTARY,
}
"""Option -> families it is for; elsewhere the build would fail or give another model."""

_FAMILY_OF_VERSION = {
    "baichuan_model_version": "baichuan",
    "chatglm_model_version": "chatglm",
    "gpt_model_version": "gpt2",
}
"""Option -> the family whose versions it names; elsewhere it is not looked at."""

_FAMILIES_OF_METHOD = {
    "smoothquant": ("llama", "mistral", "internlm", "baichuan"),
    "awq": ("llama", "mistral"),
}
"""quantize -> families the original compresses while it loads a model."""

_DOCUMENTED = {"rotary_base": ORIGINAL_ROTARY_BASE, "rotary_dim": ORIGINAL_ROTARY_DIM}
_METHODS = {"fp8": ("fp8", "modelopt"), "awq": ("awq", "modelopt"), "gptq": ("gptq",)}
"""quantize -> names of the method in ``quantization_config`` of a compressed checkpoint."""


def find_problems(artifacts: ModelArtifacts, config: TrtllmConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Touches no device."""
    if artifacts.format is ArtifactFormat.NONE:
        return []
    return [
        *_check_architecture(artifacts, config),
        *_check_families(artifacts, config),
        *_check_versions(artifacts, config),
        *_check_quantization(artifacts, config),
        *_check_built(artifacts, config),
        *_check_split(artifacts, config),
    ]


def is_built(artifacts: ModelArtifacts) -> bool:
    """Whether a folder holds built engines: as the library saves them, or as a repository for Triton."""
    if "build_config" in artifacts.config:
        return True
    if not artifacts.folder:
        return False
    try:
        inner = [artifacts.path, *artifacts.path.glob("*")]
        return any((each / "config.pbtxt").is_file() and (each / "tokenizer_config.json").is_file() for each in inner)
    except OSError:
        return False


def _check_architecture(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    names = ", ".join(artifacts.architectures)
    if artifacts.config.get("is_encoder_decoder"):
        yield Problem(
            code="model.task-not-served",
            message=f"{names or artifacts.model_type} has an encoder and a decoder; trtllm serves decoder-only models",
            hint="Use a causal language model",
            path=artifacts.folder,
        )
    elif names and not is_built(artifacts) and not set(artifacts.architectures) & set(ARCHITECTURES):
        yield Problem(
            code="model.architecture-not-served",
            message=f"{names} is none of the architectures that trtllm loads: {', '.join(ARCHITECTURES)}",
            hint="Build engines for it with TensorRT-LLM's own tools and serve those, or choose another backend",
            path=artifacts.folder,
        )
    if config.rolling_batch == "disable":
        yield Problem(
            code="config.conflict",
            message=f"rolling_batch=disable is for T5, which trtllm does not serve; this model is {_kind(artifacts)}",
            hint="Remove option.rolling_batch, or set it to trtllm",
            fields=("rolling_batch",),
        )


def _check_families(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    family = _family(artifacts)
    if not family:
        return
    for name, families in _FAMILIES_OF_OPTION.items():
        documented = name in _DOCUMENTED and getattr(config, name) == _DOCUMENTED[name]
        if family not in families and differs(config, name) and not documented:
            yield Problem(
                code="config.conflict",
                message=f"{said(config, name)} is for {_listed(families)} only; this model is {_kind(artifacts)}",
                hint=f"Remove option.{name}",
                path=artifacts.folder,
                fields=(name,),
            )
    if config.multi_block_mode and family == "qwen":
        yield Problem(
            code="config.conflict",
            message=f"multi_block_mode=true is not for qwen; this model is {_kind(artifacts)}",
            hint="Remove option.multi_block_mode",
            path=artifacts.folder,
            fields=("multi_block_mode",),
        )


def _check_versions(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    family = _family(artifacts)
    for name, owner in _FAMILY_OF_VERSION.items():
        if family and family != owner and differs(config, name):
            yield Problem(
                code="config.no-effect",
                message=f"{said(config, name)} is for {owner} only; this model is {_kind(artifacts)}",
                hint=f"Remove option.{name}",
                severity=Severity.WARNING,
                fields=(name,),
            )
    if family == "chatglm" and config.chatglm_model_version == "unspecified" and not is_built(artifacts):
        yield Problem(
            code="config.missing-key",
            message=f"chatglm_model_version is unspecified, and this model is {_kind(artifacts)}, of which there are "
            "several",
            hint="Set option.chatglm_model_version to chatglm_6b, chatglm2_6b, chatglm2_6b_32k, chatglm3_6b, "
            "chatglm3_6b_base, chatglm3_6b_32k or glm_10b",
            path=artifacts.folder,
            fields=("chatglm_model_version",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    wanted, found = config.quantize, _method_of(artifacts)
    if wanted is None or is_built(artifacts):
        return
    fits = found in _METHODS.get(wanted, ())
    families = _FAMILIES_OF_METHOD.get(wanted, ())
    if found and not fits:
        yield _wrong_method(
            artifacts,
            f"quantize={wanted}, but the checkpoint is compressed with {found}",
            "Remove option.quantize: a compressed checkpoint says itself how it is to be read",
        )
    elif wanted == "gptq":
        yield _wrong_method(
            artifacts,
            "quantize=gptq is for models that were built before; trtllm does not compress with gptq while loading",
            "Serve engines built from a gptq checkpoint, or set option.quantize=awq",
        )
    elif not found and families and _family(artifacts) not in ("", *families):
        yield _wrong_method(
            artifacts,
            f"quantize={wanted} is for {_listed(families)} only; this model is {_kind(artifacts)}",
            "Remove option.quantize, or serve a checkpoint that is already compressed",
        )
    elif not found and config.backend == "pytorch" and wanted in ("awq", "fp8"):
        yield Problem(
            code="model.not-quantized",
            message=f"quantize={wanted} with backend=pytorch needs a compressed checkpoint, and config.json has no "
            "quantization_config",
            hint="Leave option.backend out, or use a checkpoint that was compressed so",
            path=artifacts.folder,
            fields=("backend", "quantize"),
        )


def _check_built(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    if not is_built(artifacts):
        return
    if config.quantize is not None:
        yield Problem(
            code="config.no-effect",
            message=f"quantize={config.quantize} is applied while a model is built; this one is built already",
            hint="Remove option.quantize, unless the model is to be built anew",
            severity=Severity.WARNING,
            fields=("quantize",),
        )
    if config.backend == "pytorch":
        yield Problem(
            code="config.conflict",
            message="backend=pytorch loads weights, and this model is built engines",
            hint="Remove option.backend, or name the model that the engines were built from",
            path=artifacts.folder,
            fields=("backend",),
        )
    mapping = _section(_section(artifacts.config, "pretrained_config"), "mapping")
    n_built = mapping.get("tp_size")
    if isinstance(n_built, int) and n_built != config.tensor_parallel_degree:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {config.tensor_parallel_degree}, the engines were built for {n_built}",
            hint=f"Set option.tensor_parallel_degree={n_built}, or build the engines anew",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )
    plugins = _section(_section(artifacts.config, "build_config"), "plugin_config")
    if config.enable_kv_cache_reuse and plugins.get("use_paged_context_fmha") is False:
        yield Problem(
            code="config.conflict",
            message="enable_kv_cache_reuse=true, but the engines were built without use_paged_context_fmha",
            hint="Remove option.enable_kv_cache_reuse, or build the engines with --use_paged_context_fmha enable",
            path=artifacts.folder,
            fields=("enable_kv_cache_reuse",),
        )


def _check_split(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    n_heads = artifacts.config.get("num_attention_heads") or artifacts.config.get("n_head")
    degree = config.tensor_parallel_degree
    if isinstance(n_heads, int) and n_heads % degree:
        fitting = [str(each) for each in range(1, n_heads + 1) if n_heads % each == 0]
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree}, and {n_heads} attention heads cannot be split into so many "
            "equal parts",
            hint=f"Set option.tensor_parallel_degree to one of {', '.join(fitting)}",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )


def _family(artifacts: ModelArtifacts) -> str:
    built_from = _section(artifacts.config, "pretrained_config").get("architecture")
    if not artifacts.architectures and isinstance(built_from, str):
        return family_of(ModelArtifacts(architectures=(built_from,)))
    return family_of(artifacts)


def _kind(artifacts: ModelArtifacts) -> str:
    """What a model is, for messages: its class, else its family."""
    return ", ".join(artifacts.architectures) or _family(artifacts) or "of an unknown architecture"


def _method_of(artifacts: ModelArtifacts) -> str:
    return str(_section(artifacts.config, "quantization_config").get("quant_method") or "").lower()


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _wrong_method(artifacts: ModelArtifacts, message: str, hint: str) -> Problem:
    return Problem(code="config.quantize", message=message, hint=hint, path=artifacts.folder, fields=("quantize",))


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
