# SPDX-License-Identifier: Apache-2.0
"""A backend that builds ahead of time, and fails at it on request; installed by the tests."""

import os
import signal
import time
from pathlib import Path

import msgspec

from lmi.api import (
    BackendConfig,
    BackendInfo,
    EngineLibrary,
    EngineLoadError,
    Task,
    hookimpl,
    option,
)


class BuildingConfig(BackendConfig):
    build: str = option("well", description="How it goes: well, raise, segfault, slow, nothing or unreadable.")
    depth: int = option(1, description="Says nothing.", unit="layers")


@hookimpl
def lmi_describe_backend():
    return BackendInfo(
        name="building",
        summary="builds",
        artifact_formats=("pretrained",),
        tasks=(Task.GENERATE,),
        engine_libraries=(EngineLibrary(distribution="msgspec", versions=">=0.1"),),
    )


@hookimpl
def lmi_config_type():
    return BuildingConfig


@hookimpl
def lmi_compile_artifacts(artifacts, config, output_dir, progress):
    output = Path(output_dir)
    progress("build", 0.5)
    (output / "part.bin").write_bytes(b"x" * 1000)
    if config.build == "slow":
        time.sleep(600)
    if config.build == "raise":
        raise EngineLoadError("engine.load-failed", "the compiler refused it", "Use another model")
    if config.build == "segfault":
        print("last words of the compiler", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if config.build == "nothing":
        return None
    for name in () if config.build == "unreadable" else artifacts.files:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes((artifacts.path / name).read_bytes())
    (output / "part.bin").unlink()
    (output / "serving.properties").write_text("option.depth=7\n")
    progress("build", 1.0)
    return msgspec.structs.replace(artifacts, folder=output_dir)


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    raise EngineLoadError("engine.load-failed", "it only builds", "Serve it with another one")
