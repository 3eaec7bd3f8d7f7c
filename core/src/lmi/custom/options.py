# SPDX-License-Identifier: Apache-2.0
"""The configuration of a custom handler: its own options pass through, what cannot be had is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lmi.api import BackendConfig, BackendInfo, ConfigError, Problem, Resume, Target
from lmi.config import Parsed, Settings, parse
from lmi.config.coerce import is_true
from lmi.config.typed import config_error
from lmi.custom.model_file import ModelFile, without
from lmi.requirements import requirement_problems

_BATCH_KEYS = ("batch_size", "max_dynamic_batch_size")
_OWN_MEANING = frozenset({"option.tensor_parallel_degree", "option.output_formatter", "max_batch_delay", *_BATCH_KEYS})
"""Options that such a file reads by itself, in values that no backend takes (``tensor_parallel_degree=max``)."""

INFO = BackendInfo(
    name="custom",
    summary="A model's own Python file with a function that answers requests",
    needs_model=False,
    artifact_formats=("none",),
    resume=Resume.NEVER,
)
"""Stands in a plan where a backend's description does; it is no plugin and cannot be chosen by name."""


def parse_custom(settings: Settings, file: ModelFile, folder: Path | None, target: Target) -> tuple[ModelFile, Parsed]:
    """Type LMI's own options and collect what the function is told.

    Args:
        settings: of the model.
        file: of kind CUSTOM.
        folder: the model's; the file's where there is none.
        target: the machine.
    Raises:
        ConfigError: with every problem.
    """
    problems = _refused(settings)
    try:
        parsed = parse(without(settings, set(_OWN_MEANING)), INFO, BackendConfig, {}, allows_unknown=True)
    except ConfigError as error:
        raise config_error([*problems, *error.problems]) from error
    if problems:
        raise config_error(problems)
    path = Path(file.path)
    parsed.warnings.extend(requirement_problems(None, path.parent, parsed.options))
    return msgspec.structs.replace(file, properties=_properties(settings, folder or path.parent, target)), parsed


def _properties(settings: Settings, folder: Path, target: Target) -> dict[str, str]:
    """Every option under its key with and without ``option.``; batch_size would announce a batch."""
    told = {"model_dir": str(folder), "device_id": "0" if target.accelerator.value == "cuda" else "-1"}
    for key, setting in settings.items():
        if key not in _BATCH_KEYS:
            told[key] = told[key.removeprefix("option.")] = setting.value
    return told


def _refused(settings: Settings) -> list[Problem]:
    """What a custom handler of the predecessor could have and LMI does not offer."""
    problems = []
    for key in _BATCH_KEYS:
        setting = settings.get(key)
        if setting is not None and setting.value != "1":
            problems.append(
                Problem(
                    code="config.batch-size",
                    message=f"'{key}' is {setting.value!r}; the function is called with one request at a time",
                    hint="Take it out; more copies (minWorkers) answer more requests at a time",
                    source=setting.source,
                )
            )
    degree = settings.text("option.tensor_parallel_degree") or "1"
    mode = settings.get("engine")
    # Every other mode than Python starts one process a rank.
    has_ranks = (mode is not None and mode.value.lower() != "python") or is_true(settings.text("option.mpi_mode") or "")
    if has_ranks and degree != "1":
        problems.append(
            Problem(
                code="config.mpi",
                message=f"tensor_parallel_degree={degree} under MPI needs a process for each part, and a custom "
                "handler gets one process",
                hint="Let an engine that starts its own processes split the model, or use a backend",
                source=mode.source if mode is not None else settings["option.mpi_mode"].source,
            )
        )
    return problems
