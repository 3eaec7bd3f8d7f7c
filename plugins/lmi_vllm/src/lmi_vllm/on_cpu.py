# SPDX-License-Identifier: Apache-2.0
"""What vLLM's build for the CPU cannot do, and what changes nothing there."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import Accelerator, ModelArtifacts, Problem, Severity, Target, shape_of
from lmi_vllm.config import VLLMConfig
from lmi_vllm.refused import CPU_HEAD_SIZES, IDLE_ON_CPU, NOT_ON_CPU
from lmi_vllm.rules import shown


def check_cpu(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> Iterator[Problem]:
    """Options and models that do not go with the CPU; nothing on another device."""
    if target.accelerator is not Accelerator.CPU:
        return
    yield from _check_heads(artifacts)
    yield from _check_stages(config)
    fields = type(config).model_fields
    for names, severity in ((NOT_ON_CPU, Severity.ERROR), (IDLE_ON_CPU, Severity.WARNING)):
        for name, reason in names.items():
            value = getattr(config, name)
            # False asks for what is the case on CPU anyway.
            if value == fields[name].default or value is False:
                continue
            is_error = severity is Severity.ERROR
            effect = "is not there on CPU" if is_error else "changes nothing"
            yield Problem(
                code="config.conflict" if is_error else "config.no-effect",
                message=f"{name}={shown(value)} {effect}: {reason}",
                hint=f"Remove option.{name}",
                severity=severity,
                fields=(name,),
            )


def _check_stages(config: VLLMConfig) -> Iterator[Problem]:
    """A model that is not compiled is not tried out either, and then the later stages have no room for what the first
    one sends them: the first request kills the engine. Source: vLLM 0.32, CPUModelRunner.warming_up_model."""
    if config.pipeline_parallel_degree == 1 or not (config.enforce_eager or config.enable_lora):
        return
    name = "enforce_eager" if config.enforce_eager else "enable_lora"
    yield Problem(
        code="config.pipeline-parallel",
        message=f"pipeline_parallel_degree is {config.pipeline_parallel_degree} and {name} is true; on CPU vLLM "
        "spreads only a model that it compiles over stages",
        hint=f"Use option.tensor_parallel_degree, or remove option.{name}",
        fields=("pipeline_parallel_degree", name),
    )


def _check_heads(artifacts: ModelArtifacts) -> Iterator[Problem]:
    """The kernels for attention on CPU exist for some sizes; another one kills the engine at its first request."""
    shape = shape_of(artifacts)
    size = shape.head_dim
    if not size or shape.is_latent or size in CPU_HEAD_SIZES:
        return
    yield Problem(
        code="model.head-size",
        message=f"the model's attention heads have {size} numbers; on CPU vLLM takes "
        f"{', '.join(map(str, CPU_HEAD_SIZES))}",
        hint="Use another backend (option.rolling_batch=hf), or a device that is no CPU",
        path=artifacts.folder,
    )
