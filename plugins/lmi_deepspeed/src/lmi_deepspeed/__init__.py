# SPDX-License-Identifier: Apache-2.0
"""The backend deepspeed: DeepSpeed's tensor parallel inference of HuggingFace models, one process a rank under MPI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lmi.api import (
    STEPPER_CAPABILITIES,
    Accelerator,
    Answerer,
    BackendConfig,
    BackendInfo,
    EngineLibrary,
    Launch,
    ModelArtifacts,
    OldValue,
    Problem,
    Progress,
    Resume,
    Stepper,
    Target,
    hookimpl,
    ranks_of,
    task_of,
)
from lmi_deepspeed.memory import FAMILIES, MEMORY
from lmi_hf.tasks.checks import HEADS, TASKS

if TYPE_CHECKING:
    from lmi_deepspeed.config import DeepSpeedConfig


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="deepspeed",
        summary="DeepSpeed inference under MPI: tensor parallel for HuggingFace models, SmoothQuant and dynamic INT8",
        entry_points=("djl_python.deepspeed",),
        engine_names=("DeepSpeed", "MPI"),
        modes=("MPI",),
        old_values=(
            OldValue(key="engine", value="DeepSpeed", write="engine=MPI and option.entryPoint=djl_python.deepspeed"),
        ),
        accelerators=(Accelerator.CUDA, Accelerator.CPU),
        launch=Launch.CORE_MPI,
        artifact_formats=("pretrained", "adapter", "ranked-checkpoint"),
        tasks=TASKS,
        takes_encoders=False,
        quantizations=("smoothquant", "dynamic_int8"),
        capabilities=STEPPER_CAPABILITIES,
        resume=Resume.EXACT,
        engine_libraries=(
            EngineLibrary(distribution="deepspeed", versions=">=0.19.8,<0.20"),
            EngineLibrary(distribution="torch", versions=">=2.6,<3"),
            EngineLibrary(distribution="transformers", versions=">=5.0,<6"),
            EngineLibrary(distribution="accelerate", versions=">=1.1,<2"),
        ),
        memory=MEMORY,
        instances=FAMILIES,
        image="deepspeed",
        stopped_by=("weights.index-missing", "weights.odd-name"),  # from_pretrained goes by names
        install="install the torch build for your device, then pip install 'lmi-deepspeed[engine]'",
        priority=-20,  # taken when it is asked for; other backends of the same devices need no mpirun
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_deepspeed.config import DeepSpeedConfig

    return DeepSpeedConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_deepspeed.checks import find_problems

    return find_problems(artifacts, cast("DeepSpeedConfig", config), target)


@hookimpl
def lmi_compile_artifacts(
    artifacts: ModelArtifacts, config: BackendConfig, output_dir: str, progress: Progress
) -> ModelArtifacts:
    """Shards: a part of the weights for each rank; called by all of them."""
    import os

    from lmi_deepspeed.building import build_shards

    return build_shards(artifacts, cast("DeepSpeedConfig", config), ranks_of(os.environ), output_dir, progress)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper | Answerer:
    import importlib
    import os

    from lmi_hf.machine import prepare_threads

    n_threads = prepare_threads(0, "auto")
    progress("import deepspeed")
    for name in ("torch", "transformers", "deepspeed"):  # the core names the one that is absent
        importlib.import_module(name)
    options, ranks = cast("DeepSpeedConfig", config), ranks_of(os.environ)
    task = task_of(artifacts, options.task)
    if task in HEADS:
        from lmi_deepspeed.answering import load_answerer

        return load_answerer(artifacts, options, ranks, task, n_threads, progress)
    from lmi_deepspeed.engine import load_stepper

    return load_stepper(artifacts, options, ranks, n_threads, progress)
