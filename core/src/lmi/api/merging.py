# SPDX-License-Identifier: Apache-2.0
"""A folder that is an adapter, served by merging it into its base model: where that is, and what would stop them."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api.adapters import Adapter, adapter_problem, adapter_problems, adapters_of
from lmi.api.artifacts import ModelArtifacts
from lmi.api.errors import Problem, Severity

_NOT_MERGED = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
"""Methods of PEFT that add to the prompt or the layers, so that no weights of the base can take them in."""

_GENERATING = ("", "CAUSAL_LM")


def base_of(artifacts: ModelArtifacts) -> str:
    """The base model that an adapter names: a path or a name on the hub; "" where it names none."""
    return str(artifacts.document("adapter_config.json").get("base_model_name_or_path") or "")


def merging_problems(artifacts: ModelArtifacts) -> list[Problem]:
    """Everything about an adapter that would stop it from being merged into its base model.

    Args:
        artifacts: the adapter. Only its own description is looked at, and whether a base that is a folder is there.
    """
    (adapter,) = adapters_of(artifacts)
    if not adapter.config:
        return []  # that it cannot be read is told of every model
    return [*adapter_problems(artifacts), *_check_kind(artifacts, adapter), *_check_base(artifacts)]


def _check_kind(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    if adapter.method in _NOT_MERGED:
        said = f"has the method {adapter.method}, which cannot be merged into its base model"
        yield adapter_problem("adapter.not-supported", artifacts, adapter, said, "Use a LoRA adapter")
    task = str(adapter.config.get("task_type") or "")
    if task not in _GENERATING:
        said = f"was trained for {task}, which does not continue a text"
        hint = "Use an adapter of a causal language model (task_type CAUSAL_LM)"
        yield adapter_problem("model.task-not-served", artifacts, adapter, said, hint)


def _check_base(artifacts: ModelArtifacts) -> Iterator[Problem]:
    start = base_of(artifacts)
    is_relative = not start.startswith("/")
    if not start or (not (artifacts.is_elsewhere and is_relative) and (artifacts.path / start).is_dir()):
        return
    if not start.startswith(("/", ".")):
        yield _not_looked_at(artifacts, start)
        return
    if artifacts.is_elsewhere and is_relative:
        said, hint = "which is relative to a folder, and the adapter is in none", "Name a model on the hub in it"
    else:
        said, hint = "which is not there", "Copy the base model there, or change base_model_name_or_path"
    yield Problem(
        code="adapter.base-missing",
        message=f"adapter_config.json names the base model {start}, {said}",
        hint=hint,
        path=artifacts.folder,
    )


def _not_looked_at(artifacts: ModelArtifacts, name: str) -> Problem:
    """A base on the hub: it is fetched when the adapter is merged, and may be anything until then."""
    return Problem(
        code="adapter.base-not-checked",
        message=f"the base model {name} was not looked at; it is fetched from the hub when the adapter is loaded",
        hint=f"Check it by itself: lmi check {name}",
        path=artifacts.folder,
        severity=Severity.WARNING,
    )


__all__ = ["base_of", "merging_problems"]
