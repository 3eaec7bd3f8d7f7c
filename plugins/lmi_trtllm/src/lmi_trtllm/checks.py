# SPDX-License-Identifier: Apache-2.0
"""What would stop a model on this backend, from its config.json and the names of its files."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_trtllm.adapters import check_adapters
from lmi_trtllm.built import is_built, read_built
from lmi_trtllm.built_checks import find_built_problems
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import differs, listed, said
from lmi_trtllm.families import ARCHITECTURES, family_of
from lmi_trtllm.family_options import ORIGINAL_ROTARY_BASE, ORIGINAL_ROTARY_DIM
from lmi_trtllm.jit_checks import check_gpu, find_jit_problems
from lmi_trtllm.versions import check_versions

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

_DOCUMENTED = {"rotary_base": ORIGINAL_ROTARY_BASE, "rotary_dim": ORIGINAL_ROTARY_DIM}


def find_problems(artifacts: ModelArtifacts, config: TrtllmConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    if artifacts.format is ArtifactFormat.NONE:
        return []
    found = [
        *_check_architecture(artifacts, config),
        *_check_families(artifacts, config),
        *_check_versions(artifacts, config),
        *check_versions(artifacts, config, _family(artifacts)),
        *check_gpu(artifacts, config, target),
        *check_adapters(artifacts, config),
    ]
    if is_built(artifacts):
        return [*found, *find_built_problems(artifacts, config, target)]
    return [*found, *find_jit_problems(artifacts, config, target, _family(artifacts), _kind(artifacts))]


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
            hint="Convert it manually, as docs/convert-manually.md says: build engines with TensorRT-LLM's own tools, "
            "name their folder with option.model_id; or choose another backend",
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
                message=f"{said(config, name)} is for {listed(families)} only; this model is {_kind(artifacts)}",
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


def _family(artifacts: ModelArtifacts) -> str:
    if is_built(artifacts) and not artifacts.architectures:
        return family_of(ModelArtifacts(architectures=(read_built(artifacts).architecture,)))
    return family_of(artifacts)


def _kind(artifacts: ModelArtifacts) -> str:
    """What a model is, for messages: its class, else its family."""
    return ", ".join(artifacts.architectures) or _family(artifacts) or "of an unknown architecture"
