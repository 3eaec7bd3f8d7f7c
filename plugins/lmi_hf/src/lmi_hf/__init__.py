# SPDX-License-Identifier: Apache-2.0
"""The backend hf: HuggingFace Transformers and Accelerate, on CPU and CUDA, scheduled by LMI's core."""

from collections.abc import Sequence

from lmi.api import (
    STEPPER_CAPABILITIES,
    Accelerator,
    Answerer,
    BackendConfig,
    BackendInfo,
    Capability,
    EngineLibrary,
    ModelArtifacts,
    Problem,
    Progress,
    Resume,
    Stepper,
    Target,
    hookimpl,
    task_of,
)
from lmi_hf.memory import FAMILIES, HF_MEMORY
from lmi_hf.tasks.checks import HEADS, TASKS


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="hf",
        summary="HuggingFace Transformers with continuous batching; any causal language model, on CPU and CUDA",
        rolling_batch=("scheduler",),
        entry_points=("djl_python.huggingface",),
        engine_names=("Python",),
        # On CPU it is the first choice; on CUDA a backend with kernels of its own is faster.
        accelerators=(Accelerator.CPU, Accelerator.CUDA),
        artifact_formats=("pretrained", "adapter"),
        tasks=TASKS,
        takes_encoders=False,
        quantizations=("bitsandbytes4", "bitsandbytes8", "gptq", "awq"),
        capabilities=STEPPER_CAPABILITIES | {Capability.ADAPTERS},
        resume=Resume.EXACT,
        engine_libraries=(
            EngineLibrary(distribution="torch", versions=">=2.6,<3"),
            EngineLibrary(distribution="transformers", versions=">=5.0,<6"),
            EngineLibrary(distribution="accelerate", versions=">=1.1,<2"),
        ),
        memory=HF_MEMORY,
        instances=FAMILIES,
        image="deepspeed",
        stopped_by=("weights.index-missing", "weights.odd-name"),  # from_pretrained goes by names
        install="install the torch build for your device, then pip install 'lmi-hf[engine]'",
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_hf.config import HFConfig

    return HFConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_hf.checks import find_problems
    from lmi_hf.config import HFConfig

    return find_problems(artifacts, HFConfig.model_validate(config.model_dump()), target)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper | Answerer:
    from lmi_hf.config import HFConfig
    from lmi_hf.machine import prepare_threads

    options = HFConfig.model_validate(config.model_dump())
    n_threads = prepare_threads(options.n_threads, options.omp_wait_policy)
    progress("import torch and transformers")
    from lmi_hf.engine import import_libraries

    import_libraries("hf")
    task = task_of(artifacts, options.task)
    if task in HEADS:
        from lmi_hf.tasks.answerers import load_answerer

        return load_answerer(artifacts, options, task, n_threads, progress)
    from lmi_hf.engine import load_stepper

    return load_stepper(artifacts, options, n_threads, progress)
