# SPDX-License-Identifier: Apache-2.0
"""The backend acme. Importing this module imports no engine library: the hooks do, when they are called."""

from typing import TYPE_CHECKING, cast

from lmi.api import (
    STEPPER_CAPABILITIES,
    BackendConfig,
    BackendInfo,
    Capability,
    EngineLibrary,
    ModelArtifacts,
    Progress,
    Resume,
    Stepper,
    hookimpl,
)

if TYPE_CHECKING:
    from lmi_acme.config import AcmeConfig


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="acme",
        summary="Makes up its logits",
        needs_model=False,
        # The core samples, so all of these work. A constraint needs a model that names an end-of-sequence id: with one,
        # declare it, too.
        capabilities=STEPPER_CAPABILITIES - {Capability.CONSTRAINT},
        resume=Resume.EXACT,
        engine_libraries=(EngineLibrary(distribution="torch", versions=">=2.4"),),
        install="pip install torch, in the build for your device",
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_acme.config import AcmeConfig

    return AcmeConfig


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Stepper:
    progress("import the library")
    from lmi_acme.stepper import AcmeStepper

    progress("load the weights", 0.0)
    stepper = AcmeStepper(cast("AcmeConfig", config))  # made by the core from the class above
    progress("load the weights", 1.0)
    return stepper
