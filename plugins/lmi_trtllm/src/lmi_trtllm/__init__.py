# SPDX-License-Identifier: Apache-2.0
"""The backend trtllm: NVIDIA's TensorRT-LLM. It reads and checks its configuration; loading comes later."""

from collections.abc import Sequence

from lmi.api import (
    Accelerator,
    BackendConfig,
    BackendInfo,
    Capability,
    Engine,
    EngineLibrary,
    EngineLoadError,
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
    Capability.PROMPT_LOGPROBS, Capability.CONSTRAINT,
})  # fmt: skip
"""What the engine's SamplingParams can say; it has no typical_p."""


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="trtllm",
        summary="NVIDIA TensorRT-LLM with in-flight batching, on CUDA; so far it reads and checks its configuration",
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
        artifact_formats=("pretrained", "triton-repository", "engines"),
        architectures=ARCHITECTURES,
        quantizations=("smoothquant", "awq", "fp8", "gptq"),
        capabilities=CAPABILITIES,
        resume=Resume.CONTINUES,
        is_loadable=False,
        engine_libraries=(EngineLibrary(distribution="tensorrt-llm", versions=">=1.0,<1.3"),),
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
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Engine:
    import importlib

    progress("import tensorrt_llm")
    importlib.import_module("tensorrt_llm")  # its absence is told by the core, with how to install it
    raise EngineLoadError(
        "engine.not-implemented",
        "the backend trtllm reads and checks its configuration; loading comes with a later version",
        "Install a newer lmi-trtllm when there is one; until then set option.rolling_batch to another backend",
    )
