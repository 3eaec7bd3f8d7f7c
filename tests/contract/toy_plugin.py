# SPDX-License-Identifier: Apache-2.0
"""A backend that keeps the whole contract, and breaks exactly one rule of it when ``option.fault`` says so.

It declares everything there is to declare. Its model is a function of the ids that came before (tests/steppers.py), so
it needs a model folder only for what lies beside the weights. Tests install it under the name ``toy``.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
from pydantic import field_validator

from lmi.api import (
    STEPPER_CAPABILITIES,
    BackendConfig,
    BackendInfo,
    Capability,
    EngineLibrary,
    ModelArtifacts,
    Problem,
    Resume,
    Severity,
    hookimpl,
    option,
)

N_DESCRIPTIONS = itertools.count()
FAULT_FILE = Path(__file__).with_name("toy_fault.txt")
"""Faults of the plugin itself come before there is a configuration; tests write them here."""


def plugin_fault() -> str:
    return FAULT_FILE.read_text("utf-8") if FAULT_FILE.is_file() else ""


if plugin_fault() == "P1":
    import torch  # noqa: F401


class ToyConfig(BackendConfig):
    """Options of the toy."""

    fault: str = option("", description="Id of the rule to break; empty breaks none.")
    max_model_len: int = option(256, description="Longest prompt plus output.", unit="tokens", ge=2)
    pace: float = option(
        1.0, description="Does nothing; there to be read as text.", unit="" if plugin_fault() == "C2" else "steps", ge=0
    )

    @field_validator("pace", mode="before")
    @classmethod
    def _misread(cls, value: Any) -> Any:
        return float(value) + 1 if plugin_fault() == "C3" and isinstance(value, str) else value


if plugin_fault() == "C1":
    ToyConfig.model_config["extra"] = "allow"
    ToyConfig.model_rebuild(force=True)


@hookimpl
def lmi_describe_backend() -> BackendInfo:
    declared = STEPPER_CAPABILITIES | {Capability.ADAPTERS, Capability.CONSTRAINT, Capability.BATCH_INVARIANT}
    if plugin_fault() == "undeclared":
        declared = frozenset()
    return BackendInfo(
        name="toy",
        summary=f"a toy {next(N_DESCRIPTIONS)}" if plugin_fault() == "P3" else "a toy",
        artifact_formats=("pretrained",),
        capabilities=frozenset(declared),
        own_constraints=True,
        resume=Resume.EXACT,
        engine_libraries=(EngineLibrary(distribution="torch", versions=">=2"),),
        install="pip install lmi-toy torch",
    )


if plugin_fault() == "P2":

    @hookimpl
    def lmi_describe_backends() -> None:
        return None


@hookimpl
def lmi_config_type() -> type[BackendConfig]:
    return ToyConfig


@hookimpl
def lmi_validate_artifacts(artifacts: ModelArtifacts, config: BackendConfig) -> list[Problem]:
    fault = plugin_fault()
    is_spoilt = not (artifacts.path / "tokenizer.json").is_file()
    if fault == "A1":
        return [Problem(code="toy.taste", message="a model", hint="take another", severity=Severity.WARNING)]
    if fault == "A2" and is_spoilt:
        raise ValueError("no tokenizer")
    if fault == "A3" and is_spoilt:
        return [Problem(code="toy.lost", message="something is lost")]
    if fault == "A4":
        import torch  # noqa: F401
    return []


@hookimpl
def lmi_compile_artifacts(artifacts: ModelArtifacts, output_dir: str, progress: Any) -> ModelArtifacts:
    progress("compile", 1.0)
    if plugin_fault() != "K-compile":
        shutil.copytree(artifacts.folder, output_dir, dirs_exist_ok=True)
    return msgspec.structs.replace(artifacts, folder=output_dir)


@hookimpl
def lmi_load_engine(artifacts: ModelArtifacts, config: BackendConfig, progress: Any) -> Any:
    if plugin_fault() == "P4":
        try:
            import torch  # noqa: F401
        except ImportError:
            raise ValueError("something is missing") from None
    from tests.contract.toy_engine import ToyEngine, toy_stepper

    assert isinstance(config, ToyConfig)
    if config.fault != "L4":
        progress("load", 1.0)
    if config.fault in ("stepper", "G13"):
        return toy_stepper(config.max_rolling_batch_size, is_swapped=config.fault == "G13")
    is_split_wrongly = config.fault == "K-tensor_parallel" and config.tensor_parallel_degree > 1
    fault = "G3" if is_split_wrongly else config.fault
    return ToyEngine(fault, config.max_model_len, config.max_rolling_batch_size, artifacts)
