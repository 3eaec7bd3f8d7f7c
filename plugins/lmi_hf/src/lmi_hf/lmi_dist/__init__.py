# SPDX-License-Identifier: Apache-2.0
"""The backend lmi-dist: HuggingFace models split by tensor over several devices, one process a rank under MPI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lmi.api import (
    STEPPER_CAPABILITIES,
    Accelerator,
    BackendConfig,
    BackendInfo,
    EngineLibrary,
    Launch,
    ModelArtifacts,
    Problem,
    Progress,
    Resume,
    Stepper,
    Target,
    hookimpl,
    ranks_of,
)
from lmi_hf.memory import DIST_FAMILIES, DIST_MEMORY

if TYPE_CHECKING:
    from lmi_hf.lmi_dist.config import DistConfig

MODEL_TYPES = (
    "falcon", "gpt-neox", "t5", "llama", "mpt", "gpt-bigcode", "aquila", "baichuan", "bloom", "chatglm", "deci",
    "gemma", "gpt2", "gptj", "internlm2", "mistral", "mixtral", "opt", "phi", "qwen", "qwen2", "stablelm", "dbrx",
    "starcoder2",
)  # fmt: skip
"""What LMI 0.27 served with it by itself."""


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="lmi-dist",
        summary="Tensor parallel HuggingFace models under MPI, GPTQ and AWQ on one device, speculative decoding",
        entry_points=("djl_python.huggingface",),
        engine_names=("MPI",),
        modes=("MPI",),
        image_features=("lmi-dist",),
        model_types=MODEL_TYPES,
        accelerators=(Accelerator.CUDA, Accelerator.CPU),
        launch=Launch.CORE_MPI,
        artifact_formats=("pretrained", "adapter"),
        takes_encoders=False,
        quantizations=("awq", "gptq"),
        capabilities=STEPPER_CAPABILITIES,
        resume=Resume.EXACT,
        engine_libraries=(
            EngineLibrary(distribution="torch", versions=">=2.6,<3"),
            EngineLibrary(distribution="transformers", versions=">=5.0,<6"),
        ),
        memory=DIST_MEMORY,
        instances=DIST_FAMILIES,
        image="deepspeed",
        stopped_by=("weights.index-missing", "weights.odd-name"),  # from_pretrained goes by names
        install="install the torch build for your device, then pip install 'lmi-hf[engine]'",
        priority=-10,  # taken when it is asked for, or among the backends that engine=MPI leaves
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_hf.lmi_dist.config import DistConfig

    return DistConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_hf.lmi_dist.checks import find_problems

    return find_problems(artifacts, cast("DistConfig", config), target)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper:
    import os

    from lmi_hf.machine import prepare_threads

    n_threads = prepare_threads(0, "auto")
    progress("import torch and transformers")
    from lmi_hf.engine import import_libraries

    import_libraries("lmi-dist")
    from lmi_hf.lmi_dist.engine import load_stepper

    return load_stepper(artifacts, cast("DistConfig", config), ranks_of(os.environ), n_threads, progress)
