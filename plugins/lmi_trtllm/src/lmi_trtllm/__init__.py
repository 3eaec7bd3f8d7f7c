# SPDX-License-Identifier: Apache-2.0
"""The backend trtllm: NVIDIA's TensorRT-LLM, which runs weights as they are or engines that are built from them."""

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
    OldValue,
    Problem,
    Progress,
    Resume,
    Target,
    hookimpl,
)
from lmi_trtllm.families import ARCHITECTURES
from lmi_trtllm.memory import FAMILIES, MEMORY

INSTALL = (
    "start from NVIDIA's TensorRT-LLM container, or install tensorrt-llm with its wheels from NVIDIA's package index, "
    "then pip install lmi-trtllm"
)

CAPABILITIES = frozenset({
    Capability.MIN_TOKENS, Capability.TEMPERATURE, Capability.TOP_K, Capability.TOP_P, Capability.MIN_P,
    Capability.REPETITION_PENALTY, Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY, Capability.LOGIT_BIAS,
    Capability.BAD_TOKEN_IDS, Capability.STOP_TOKEN_IDS, Capability.IGNORE_EOS, Capability.SEED, Capability.LOGPROBS,
    Capability.PROMPT_LOGPROBS, Capability.CONSTRAINT, Capability.ADAPTERS,
})  # fmt: skip
"""Adapters, and what the engine's SamplingParams can say; they have no typical_p, and no bad words as ids."""


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="trtllm",
        summary="NVIDIA TensorRT-LLM: in-flight batching and fused kernels, weights as they are or built engines",
        rolling_batch=("tensorrtllm",),
        entry_points=(
            "djl_python.tensorrt_llm",
            "djl_python.tensorrtllm",
            "djl_python.lmi_trtllm.trtllm_async_service",
        ),
        engine_names=("MPI",),
        modes=("MPI",),
        async_entry_points=("djl_python.lmi_trtllm.trtllm_async_service",),
        old_values=(
            OldValue(
                key="option.entryPoint",
                value="djl_python.tensorrtllm",
                write="option.entryPoint=djl_python.tensorrt_llm",
            ),
        ),
        image_features=("trtllm",),
        accelerators=(Accelerator.CUDA,),
        launch=Launch.SINGLE,
        spans_machines=True,
        artifact_formats=("pretrained", "triton-repository", "engines"),
        architectures=ARCHITECTURES,
        quantizations=("smoothquant", "awq", "fp8", "gptq"),
        capabilities=CAPABILITIES,
        own_constraints=True,
        resume=Resume.CONTINUES,
        engine_libraries=(EngineLibrary(distribution="tensorrt-llm", versions=">=1.2,<1.3"),),
        compilers=("tensorrt-llm",),
        memory=MEMORY,
        instances=FAMILIES,
        image="tensorrtllm",
        install=INSTALL,
        priority=-15,  # taken first where the image announces it
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_trtllm.config import TrtllmConfig

    return TrtllmConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_trtllm.checks import find_problems
    from lmi_trtllm.config import TrtllmConfig

    if not isinstance(config, TrtllmConfig):
        config = TrtllmConfig.model_validate(config.model_dump(exclude_unset=True))
    return find_problems(artifacts, config, target)


@hookimpl
def lmi_check_engine(config: BackendConfig) -> Sequence[Problem]:
    from lmi_trtllm.arguments import engine_arguments
    from lmi_trtllm.config import TrtllmConfig
    from lmi_trtllm.guard import find_problems
    from lmi_trtllm.paths import way_of

    typed, artifacts = TrtllmConfig.model_validate(config.model_dump()), ModelArtifacts()
    return find_problems(lmi_describe_backend(), engine_arguments(artifacts, typed), way_of(artifacts, typed).reason)


@hookimpl
def lmi_compile_artifacts(
    artifacts: ModelArtifacts, config: BackendConfig, output_dir: str, progress: Progress
) -> ModelArtifacts:
    from pathlib import Path

    from lmi_trtllm.config import TrtllmConfig
    from lmi_trtllm.loading import build

    options = TrtllmConfig.model_validate(config.model_dump())
    return build(lmi_describe_backend(), artifacts, options, Path(output_dir), progress)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Engine:
    from lmi_trtllm.config import TrtllmConfig
    from lmi_trtllm.loading import load

    return load(lmi_describe_backend(), artifacts, TrtllmConfig.model_validate(config.model_dump()), progress)
