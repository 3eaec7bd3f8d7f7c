# SPDX-License-Identifier: Apache-2.0
"""The backend neuronx: Transformers-NeuronX on AWS Inferentia2 and Trainium, scheduled by LMI's core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmi.api import (
    STEPPER_CAPABILITIES,
    Accelerator,
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
    refuse_engine,
)
from lmi_neuronx.families import ARCHITECTURES
from lmi_neuronx.memory import FAMILIES, MEMORY

if TYPE_CHECKING:
    from lmi_neuronx.config import NeuronxConfig


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="neuronx",
        summary="Transformers-NeuronX on AWS Inferentia2 and Trainium; compiles models for the Neuron cores",
        rolling_batch=("tnx", "transformers-neuronx"),
        # The second one is a misspelling of the original's documents, which configurations copied.
        entry_points=("djl_python.transformers_neuronx", "djl_python.transformersneuronx"),
        engine_names=("Python",),
        modes=("Python",),
        takes_any_rolling_batch=True,
        image_features=("tnx",),
        accelerators=(Accelerator.NEURON,),
        artifact_formats=("pretrained", "neuron", "neuron-split"),
        architectures=ARCHITECTURES,
        quantizations=("static_int8",),
        # No log probabilities, as LMI has it; the compiled prefill gives the logits of its last token only.
        capabilities=STEPPER_CAPABILITIES - {Capability.LOGPROBS, Capability.PROMPT_LOGPROBS},
        resume=Resume.CONTINUES,
        needs_compile=True,
        streams_batches=True,
        engine_libraries=(
            EngineLibrary(
                distribution="transformers-neuronx",
                versions=">=0.13,<0.14",
                instead=(EngineLibrary(distribution="optimum-neuron", versions=">=0.4.5,<0.5"),),
            ),
            EngineLibrary(distribution="torch-neuronx", versions=">=2.1"),
        ),
        compilers=("neuronx-cc", "optimum-neuron"),
        memory=MEMORY,
        instances=FAMILIES,
        image="neuronx",
        stopped_by=("weights.index-missing", "weights.odd-name"),  # from_pretrained goes by names
        install=(
            "install transformers-neuronx and torch-neuronx from the package index of the AWS Neuron SDK (the public "
            "registry has empty packages of these names), then pip install lmi-neuronx"
        ),
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_neuronx.config import NeuronxConfig

    return NeuronxConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
    from lmi_neuronx.checks import find_problems
    from lmi_neuronx.config import NeuronxConfig

    if not isinstance(config, NeuronxConfig):
        config = NeuronxConfig.model_validate(config.model_dump(exclude_unset=True))
    return find_problems(artifacts, config, target)


@hookimpl
def lmi_check_engine(config: BackendConfig) -> Sequence[Problem]:
    from lmi_neuronx.config import NeuronxConfig
    from lmi_neuronx.guard import problems_of_any

    return problems_of_any(lmi_describe_backend(), NeuronxConfig.model_validate(config.model_dump()))


@hookimpl
def lmi_compile_artifacts(
    artifacts: ModelArtifacts, config: BackendConfig, output_dir: str, progress: Progress
) -> ModelArtifacts:
    from pathlib import Path

    from lmi_neuronx.compiling import compile_into, refuse_unbuildable
    from lmi_neuronx.config import NeuronxConfig

    options = NeuronxConfig.model_validate(config.model_dump())
    refuse_unbuildable(artifacts, options)
    _refuse_unfit(artifacts, options)
    return compile_into(artifacts, options, Path(output_dir), progress)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper:
    from lmi_neuronx.config import NeuronxConfig
    from lmi_neuronx.optimum import load_optimum, takes

    options = NeuronxConfig.model_validate(config.model_dump())
    if takes(artifacts, options):
        progress("import optimum-neuron")
        _refuse_unfit(artifacts, options)
        return load_optimum(artifacts, options, progress)
    progress("import torch-neuronx and transformers-neuronx")
    _refuse_unfit(artifacts, options)
    from lmi_neuronx.engine import load_stepper

    return load_stepper(artifacts, options, progress)


def _refuse_unfit(artifacts: ModelArtifacts, config: NeuronxConfig) -> None:
    """Refuse libraries that lack something that this model needs of them."""
    from lmi_neuronx.guard import problems_of_library
    from lmi_neuronx.optimum import takes
    from lmi_neuronx.symbols import OPTIMUM, OPTIMUM_SYMBOLS, TNX, tnx_symbols

    info = lmi_describe_backend()
    if takes(artifacts, config):
        refuse_engine("neuronx", problems_of_library(info, OPTIMUM, OPTIMUM_SYMBOLS))
    else:
        refuse_engine("neuronx", problems_of_library(info, TNX, tnx_symbols([artifacts.model_type])))
