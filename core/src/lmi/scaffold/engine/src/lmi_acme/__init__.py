# SPDX-License-Identifier: Apache-2.0
"""The backend acme. Importing this module imports no engine library: the hooks do, when they are called."""

from typing import TYPE_CHECKING, cast

from lmi.api import BackendConfig, BackendInfo, Capability, Engine, ModelArtifacts, Progress, Resume, hookimpl

if TYPE_CHECKING:
    from lmi_acme.config import AcmeConfig


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="acme",
        summary="Says what it is told",
        needs_model=False,
        capabilities=frozenset({Capability.STOP_TOKEN_IDS, Capability.IGNORE_EOS}),
        resume=Resume.EXACT,
        install="pip install 'lmi-acme[engine]'",
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_acme.config import AcmeConfig

    return AcmeConfig


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Engine:
    progress("import the library")
    from lmi_acme.engine import AcmeEngine

    progress("load the weights", 0.0)
    engine = AcmeEngine(cast("AcmeConfig", config))  # made by the core from the class above
    progress("load the weights", 1.0)
    return engine
