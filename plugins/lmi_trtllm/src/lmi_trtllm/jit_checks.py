# SPDX-License-Identifier: Apache-2.0
"""What would stop weights from becoming a running model: how they are split, the GPU, code, compiling at the start."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import Accelerator, ModelArtifacts, Problem, Severity, Target, shape_of
from lmi_trtllm.built import MAX_DEGREE
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import differs, said
from lmi_trtllm.families import BROUGHT_ARCHITECTURES
from lmi_trtllm.gpus import LEAST, LEAST_FOR_FP8, capability_here, is_older
from lmi_trtllm.paths import CHOOSING, TENSORRT, needed_engines, way_of
from lmi_trtllm.quantization import check_quantization
from lmi_trtllm.translation import NOTHING, ROWS


def find_jit_problems(
    artifacts: ModelArtifacts, config: TrtllmConfig, target: Target, family: str, kind: str
) -> Iterator[Problem]:
    """Everything about a model that is not built.

    Args:
        artifacts, config, target: as the hook has them.
        family: the model's.
        kind: what the model is, for messages.
    """
    yield from check_quantization(artifacts, config, family, kind)
    yield from _check_code(artifacts, config)
    yield from _check_split(artifacts, config)
    yield from _check_stages(artifacts, config, target)
    yield from _check_way(artifacts, config)


def _check_way(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    """What comes of the way the model is run: a build at the start, or options that this way does not have."""
    way, needed = way_of(artifacts, config), needed_engines(artifacts, config)
    if way.name == TENSORRT:
        yield Problem(
            code="engine.compiles-at-start",
            message=f"{way.reason}, so the model is compiled at its first start: some minutes, more for a large model",
            hint="In production build the engines once, on the type of instance that serves them, and name their "
            "folder with option.model_id",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=way.fields,
        )
    elif needed.name == TENSORRT and needed.fields != ("quantize",):  # told by itself
        yield Problem(
            code="config.conflict",
            message=f"backend=pytorch builds no engines, and {needed.reason}",
            hint="Leave option.backend out",
            path=artifacts.folder,
            fields=("backend", *needed.fields),
        )
    yield from _check_counterparts(artifacts, config, way.name)


def _check_counterparts(artifacts: ModelArtifacts, config: TrtllmConfig, way: str) -> Iterator[Problem]:
    """Options that say something and are not there on this way: refused, or only told where they are about speed."""
    for row in ROWS:
        cell, name = getattr(row, way), row.option
        if not differs(config, name) or name in CHOOSING or row.value(config) is None:
            continue
        if not cell:
            yield Problem(
                code="config.conflict",
                message=f"{said(config, name)} is for building engines, and these weights are taken as they are",
                hint=f"Remove option.{name}",
                path=artifacts.folder,
                fields=(name,),
            )
        elif cell.startswith(NOTHING) and way == TENSORRT:
            yield Problem(
                code="config.no-effect",
                message=f"{said(config, name)} changes nothing where engines are built: "
                + cell.removeprefix(NOTHING).rstrip(")"),
                hint=f"Remove option.{name}",
                path=artifacts.folder,
                severity=Severity.WARNING,
                fields=(name,),
            )


def check_gpu(artifacts: ModelArtifacts, config: TrtllmConfig, target: Target) -> Iterator[Problem]:
    """What the GPU is too old for."""
    here = capability_here(target) if target.accelerator is Accelerator.CUDA else ""
    gpu = target.device_name or target.instance or "the GPU"
    if is_older(here, LEAST):
        yield Problem(
            code="device.too-old",
            message=f"{gpu} has compute capability {here}; TensorRT-LLM runs on {LEAST} and later",
            hint="Serve it on a G5, G6, P4d or P5 instance, or choose another backend",
        )
    elif config.quantize == "fp8" and is_older(here, LEAST_FOR_FP8):
        yield Problem(
            code="config.quantize",
            message=f"quantize=fp8 needs a GPU of compute capability {LEAST_FOR_FP8} or later; {gpu} has {here}",
            hint="Set option.quantize=awq or smoothquant, or serve it on a G6 or P5 instance",
            path=artifacts.folder,
            fields=("quantize",),
        )


def _check_code(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    brought = [name for name in artifacts.architectures if name in BROUGHT_ARCHITECTURES]
    if brought and artifacts.config.get("auto_map") and not config.trust_remote_code:
        yield Problem(
            code="model.remote-code",
            message=f"{brought[0]} is Python code that comes with the model, and trust_remote_code is false",
            hint="Read that code; if you trust it, set option.trust_remote_code=true",
            path=artifacts.folder,
            fields=("trust_remote_code",),
        )


def _check_split(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    """Query heads are dealt out evenly; key-value heads evenly, too, or each to the same number of GPUs.

    The vocabulary is padded, so it is no matter. Source: the attention layer of TensorRT-LLM.
    """
    shape, degree = shape_of(artifacts), config.tensor_parallel_degree
    n_heads, n_kv_heads = shape.n_heads, 0 if shape.is_latent else shape.n_kv_heads
    if not n_heads or _divides(degree, n_heads, n_kv_heads):
        return
    fitting = [str(each) for each in range(1, min(n_heads, MAX_DEGREE) + 1) if _divides(each, n_heads, n_kv_heads)]
    if n_heads % degree:
        what = f"{n_heads} attention heads cannot be split into so many equal parts"
    else:
        what = f"{n_kv_heads} key-value heads cannot be dealt out evenly to so many GPUs"
    yield Problem(
        code="config.tensor-parallel",
        message=f"tensor_parallel_degree is {degree}, and {what}",
        hint=f"Set option.tensor_parallel_degree to one of {', '.join(fitting)}",
        path=artifacts.folder,
        fields=("tensor_parallel_degree",),
    )


def _divides(degree: int, n_heads: int, n_kv_heads: int) -> bool:
    if n_heads % degree:
        return False
    return not n_kv_heads or n_kv_heads % degree == 0 or degree % n_kv_heads == 0


def _check_stages(artifacts: ModelArtifacts, config: TrtllmConfig, target: Target) -> Iterator[Problem]:
    n_stages, degree = config.pipeline_parallel_degree, config.tensor_parallel_degree
    n_gpus = n_stages * degree
    if n_stages > 1 and target.accelerator is Accelerator.CUDA and degree <= target.n_devices < n_gpus:
        yield Problem(
            code="device.too-few",
            message=f"pipeline_parallel_degree={n_stages} times tensor_parallel_degree={degree} needs {n_gpus} GPUs, "
            f"and this machine has {target.n_devices}",
            hint=f"Lower one of them, so that their product is {target.n_devices} or less",
            fields=("pipeline_parallel_degree", "tensor_parallel_degree"),
        )
    n_layers = shape_of(artifacts).n_layers
    if n_layers and n_stages > n_layers:
        yield Problem(
            code="config.conflict",
            message=f"pipeline_parallel_degree={n_stages}, and the model has {n_layers} layers to share out",
            hint=f"Set option.pipeline_parallel_degree to {n_layers} or less",
            path=artifacts.folder,
            fields=("pipeline_parallel_degree",),
        )
