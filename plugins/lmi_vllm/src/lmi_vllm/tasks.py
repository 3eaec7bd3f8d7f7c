# SPDX-License-Identifier: Apache-2.0
"""What a model does on vLLM: generate, make vectors or give labels; found without vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import ModelArtifacts, Problem, Task, task_of, task_of_model
from lmi_vllm.config import VLLMConfig


def task_arguments(artifacts: ModelArtifacts, config: VLLMConfig) -> dict[str, Any]:
    """The arguments of vLLM's engine that say what a model does; those that the user set are left out.

    Args:
        artifacts: the model.
        config: the options.
    """
    task = task_of(artifacts, config.task)
    wanted: dict[str, Any] = {}
    if task is Task.EMBED:
        wanted = {"runner": "pooling", "convert": "embed"}
    elif task is Task.CLASSIFY:
        wanted = {"runner": "pooling", "convert": "classify"}
    elif config.task is not None and config.task.lower() != "auto":
        wanted = {"runner": "generate"}
    # In a worker every field counts as set, so it is the value that tells.
    return {name: value for name, value in wanted.items() if getattr(config, name, "auto") == "auto"}


def check_task(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    """Say that a model has no head for labels, where they are asked for, or options for another task than it has."""
    task, overrides = task_of(artifacts, config.task), getattr(config, "hf_overrides", None)
    made_for = task_of_model(artifacts)
    what = ", ".join(artifacts.architectures)
    if task is Task.CLASSIFY and made_for is not Task.CLASSIFY and what and not overrides:
        yield Problem(
            code="model.task-not-served",
            message=f"task is {config.task}, and {what} has no head for labels",
            hint="Use a model whose class ends in ForSequenceClassification, or take option.task out",
            path=artifacts.folder,
            fields=("task",),
        )
    if task is not Task.GENERATE and config.speculative_config:
        yield Problem(
            code="config.conflict",
            message=f"speculative_config is set, and the model {task.does}; only generation can be speculated",
            hint="Take option.speculative_config out",
            fields=("speculative_config",),
        )
