# SPDX-License-Identifier: Apache-2.0
"""The echo backend: repeats the prompt's tokens. No engine library, no model files; the example to copy."""

from typing import TYPE_CHECKING, cast

from lmi.api import (
    Accelerator,
    BackendConfig,
    BackendInfo,
    Capability,
    Engine,
    ModelArtifacts,
    Progress,
    Resume,
    hookimpl,
)

if TYPE_CHECKING:
    from lmi_echo.config import EchoConfig


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    return BackendInfo(
        name="echo",
        summary="Repeats the prompt's tokens; no model, no dependencies",
        accelerators=tuple(Accelerator),
        needs_model=False,
        artifact_formats=("none",),
        capabilities=frozenset({Capability.LOGPROBS, Capability.STOP_TOKEN_IDS, Capability.IGNORE_EOS}),
        resume=Resume.EXACT,
        install="pip install lmi-echo",
        priority=-100,
    )


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    from lmi_echo.config import EchoConfig

    return EchoConfig


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Progress) -> Engine:
    from lmi_echo.engine import EchoEngine

    progress("make echo", 1.0)
    return EchoEngine(cast("EchoConfig", config))  # the core made it from the class above
