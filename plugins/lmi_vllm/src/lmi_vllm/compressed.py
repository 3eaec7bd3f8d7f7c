# SPDX-License-Identifier: Apache-2.0
"""What would stop compressed weights on vLLM: the method, the device, the number type, the split."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import Accelerator, ModelArtifacts, Problem, Target, quantization_of, shape_of
from lmi_vllm.config import VLLMConfig
from lmi_vllm.names import (
    ALSO_FP32,
    BF16_ALONE,
    COMPRESSED,
    DEPRECATED,
    FOR_SEVERAL,
    METHODS,
    MIN_CAPABILITY,
    family_of,
)


def check_quantization(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> Iterator[Problem]:
    """Judge how a model is compressed, or is to be."""
    found, asked = method_of(artifacts), config.quantize
    if found and found not in METHODS and found != "unknown":
        yield Problem(
            code="model.quantization-not-served",
            message=f"the checkpoint is compressed with {found}, which vLLM does not read",
            hint="Use a checkpoint compressed with awq, gptq, fp8 or compressed-tensors, or option.rolling_batch=hf",
            path=artifacts.folder,
        )
        return
    if asked is not None:
        yield from _check_option(artifacts, asked, found)
    method = asked or found
    if method in METHODS:
        yield from _check_deprecated(artifacts, config, method)
        yield from _check_device(artifacts, method, asked, target)
        yield from _check_dtype(artifacts, config, method)
        yield from _check_groups(artifacts, config, found)


def method_of(artifacts: ModelArtifacts) -> str:
    """How the checkpoint is compressed, in vLLM's words; empty where it is not."""
    method = str(quantization_of(artifacts).get("quant_method") or "").replace(
        "compressed_tensors", "compressed-tensors"
    )
    return "inc" if method in ("auto-round", "auto_round") else method


def _check_option(artifacts: ModelArtifacts, asked: str, found: str) -> Iterator[Problem]:
    if asked in FOR_SEVERAL:
        return
    if found and found != "unknown" and family_of(found) != family_of(asked):
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is compressed with {found}",
            hint="Leave option.quantize out; vLLM finds the method in config.json",
            path=artifacts.folder,
            fields=("quantize",),
        )
    elif not found and family_of(asked) in COMPRESSED:
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or quantize=fp8, which compresses while loading",
            path=artifacts.folder,
            fields=("quantize",),
        )


def _check_deprecated(artifacts: ModelArtifacts, config: VLLMConfig, method: str) -> Iterator[Problem]:
    if method in DEPRECATED and not getattr(config, "allow_deprecated_quantization", False):
        yield Problem(
            code="model.quantization-not-served",
            message=f"the weights are compressed with {method}, which vLLM is about to drop",
            hint="Set option.allow_deprecated_quantization=true, or use another checkpoint",
            path=artifacts.folder,
            fields=("allow_deprecated_quantization",),
        )


def _check_device(artifacts: ModelArtifacts, method: str, asked: str | None, target: Target) -> Iterator[Problem]:
    has, needs = capability_of(target), MIN_CAPABILITY.get(method, 0)
    if not has or has >= needs:
        return
    device = target.device_name or "this device"
    yield Problem(
        code="model.quantization-not-served",
        message=f"{method} needs compute capability {needs / 10:.1f}, {device} has {has / 10:.1f}",
        hint="Use a newer GPU, or a checkpoint with another compression (gptq runs from 6.0)",
        path=artifacts.folder,
        fields=("quantize",) if asked else (),
    )


def _check_dtype(artifacts: ModelArtifacts, config: VLLMConfig, method: str) -> Iterator[Problem]:
    takes = ("bf16",) if method in BF16_ALONE else ("bf16", "fp16")
    if config.dtype == "auto" or config.dtype in takes or (config.dtype == "fp32" and method in ALSO_FP32):
        return
    yield Problem(
        code="config.dtype",
        message=f"dtype is {config.dtype}, and {method} computes in {' or '.join(takes)}",
        hint=f"Set option.dtype={takes[0]} or leave it out",
        path=artifacts.folder,
        fields=("dtype",),
    )


def _check_groups(artifacts: ModelArtifacts, config: VLLMConfig, found: str) -> Iterator[Problem]:
    """Weights that share a scale must not be torn apart: each device gets whole groups."""
    degree, shape, section = config.tensor_parallel_degree, shape_of(artifacts), quantization_of(artifacts)
    group = section.get("group_size", section.get("q_group_size"))
    if family_of(found) == "fp8":
        block = section.get("weight_block_size")
        group = block[-1] if isinstance(block, list) and block else None
    elif family_of(found) not in ("awq", "gptq"):
        return
    if not isinstance(group, int) or group <= 0 or degree == 1 or shape.n_experts or not shape.intermediate:
        return
    if shape.intermediate % degree or (shape.intermediate // degree) % group == 0:
        return  # what does not divide at all is told elsewhere
    fitting = [n for n in range(1, degree) if shape.intermediate % (n * group) == 0 and shape.n_heads % n == 0]
    each = shape.intermediate // degree
    yield Problem(
        code="config.tensor-parallel",
        message=f"tensor_parallel_degree is {degree}: a device would get {each} of the {shape.intermediate} "
        f"feed-forward numbers, which is no multiple of the group of {group} that shares a scale",
        hint=f"Set option.tensor_parallel_degree to {max(fitting, default=1)}",
        path=artifacts.folder,
        fields=("tensor_parallel_degree",),
    )


def capability_of(target: Target) -> int:
    """Compute capability times ten, as vLLM counts it: 75, 80, 90; 0 where it is not known, or not CUDA."""
    major, _, minor = target.compute_capability.partition(".")
    if target.accelerator is not Accelerator.CUDA or not (major.isdecimal() and minor.isdecimal()):
        return 0
    return int(major) * 10 + int(minor)
