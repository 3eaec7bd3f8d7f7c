# SPDX-License-Identifier: Apache-2.0
"""The backend neuronx: Transformers-NeuronX on AWS Inferentia2 and Trainium, scheduled by LMI's core."""

from collections.abc import Sequence

from lmi.api import (
    STEPPER_CAPABILITIES,
    Accelerator,
    BackendConfig,
    BackendInfo,
    Capability,
    EngineLibrary,
    EngineLoadError,
    ModelArtifacts,
    Problem,
    Progress,
    Resume,
    Stepper,
    Target,
    hookimpl,
)
from lmi_neuronx.families import ARCHITECTURES
from lmi_neuronx.memory import FAMILIES, MEMORY


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
        # The compiled prefill gives the logits of its last token only.
        capabilities=STEPPER_CAPABILITIES - {Capability.PROMPT_LOGPROBS},
        resume=Resume.CONTINUES,
        needs_compile=True,
        streams_batches=True,
        is_loadable=False,
        engine_libraries=(
            EngineLibrary(distribution="transformers-neuronx", versions=">=0.13,<0.14"),
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
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper:
    from importlib import import_module

    progress("import torch-neuronx and transformers-neuronx")
    import_module("torch_neuronx")
    import_module("transformers_neuronx")
    raise EngineLoadError(
        "engine.not-implemented",
        f"neuronx reads and checks its configuration; loading {artifacts.folder or 'a model'} comes with a later "
        "version",
        "On this machine, option.rolling_batch=hf serves the model with option.device=cpu, where lmi-hf is installed",
    )
