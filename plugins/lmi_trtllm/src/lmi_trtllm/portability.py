# SPDX-License-Identifier: Apache-2.0
"""Whether built engines run where they are meant for: their version of TensorRT-LLM and their GPU are part of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lmi.api import Accelerator, ModelArtifacts, Problem, Severity, Target
from lmi_trtllm.built import BuiltEngines
from lmi_trtllm.gpus import capability_here, named_capability

LIBRARY = "tensorrt-llm"


def check_portability(artifacts: ModelArtifacts, engines: BuiltEngines, target: Target) -> Iterator[Problem]:
    """Compare what the engines were built with to what the target has; what cannot be compared is said once."""
    if target.accelerator is not Accelerator.CUDA:
        return  # told by itself
    here, version = capability_here(target), target.versions.get(LIBRARY, "")
    capability, name = engines.compute_capability, ""
    if not capability:
        capability, name = named_capability(artifacts, engines)
    if engines.version and version and not _is_same_release(engines.version, version):
        yield Problem(
            code="model.compiler-version",
            message=f"the engines were built by TensorRT-LLM {engines.version}, and the target has {version}; engines "
            "load only in the version that built them",
            hint=f"Build the engines anew with TensorRT-LLM {version}, or use a container with {engines.version}",
            path=_place(artifacts, engines.config_name),
        )
    if capability and here and capability != here:
        yield _of_another_gpu(artifacts, capability, name, here, target)
    open_questions = [
        *_open_version(engines.version, version),
        *_open_gpu(capability, here, target),
    ]
    if open_questions:
        yield Problem(
            code="model.compiled-elsewhere",
            message="engines run only with the TensorRT-LLM version and on the GPU architecture that they were built "
            f"for; {'; '.join(open_questions)}",
            hint="Build them in the container and on the type of instance that serve them; lmi check compares both "
            f"when it is told: --target {LIBRARY}=VERSION --instance TYPE",
            path=artifacts.folder,
            severity=Severity.WARNING,
        )


def _of_another_gpu(artifacts: ModelArtifacts, capability: str, name: str, here: str, target: Target) -> Problem:
    gpu = f"{target.device_name}, {here}" if target.device_name else here
    said = f"by their name, '{name}', the engines" if name else "the engines"
    return Problem(
        code="model.gpu-architecture",
        message=f"{said} were built on a GPU of compute capability {capability}, and the target's has another one "
        f"({gpu})",
        hint="Build the engines on the type of instance that serves them, or serve them on the one they were built on",
        path=artifacts.folder,
        severity=Severity.WARNING if name else Severity.ERROR,
    )


def _open_version(built: str, here: str) -> Iterator[str]:
    if built and not here:
        yield f"version {built} built them, and the target's is not known"
    elif here and not built:
        yield f"nothing says which version built them, and the target has {here}"
    elif not built:
        yield "neither the version that built them is known nor the target's"


def _open_gpu(built: str, here: str, target: Target) -> Iterator[str]:
    if not built:
        gpu = target.device_name or here
        yield "nothing says on which GPU they were built" + (f", and the target has {gpu}" if gpu else "")
    elif not here:
        yield f"they were built for compute capability {built}, and the target's is not known"


def _is_same_release(built: str, here: str) -> bool:
    """Whether two versions have one format of engines: major and minor number decide."""
    return re.findall(r"\d+", built)[:2] == re.findall(r"\d+", here)[:2]


def _place(artifacts: ModelArtifacts, name: str) -> str:
    return f"{artifacts.folder}/{name}" if artifacts.folder else name
