# SPDX-License-Identifier: Apache-2.0
"""Tasks that a backend does not do, told with the backends that do them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lmi.api import BackendInfo, ModelArtifacts, Problem, Task, task_named, task_of_model
from lmi.api.errors import enumerated
from lmi.config.settings import Settings
from lmi.plugins.absent import known_backends

_KEY = "option.task"
NOT_SERVED = "model.task-not-served"


def with_those_that_can(
    problems: Sequence[Problem], settings: Settings, info: BackendInfo, infos: Iterable[BackendInfo]
) -> list[Problem]:
    """The problems; one about a task that the backend does not do names the backends that do it.

    Args:
        problems: of the configuration.
        settings: where ``option.task`` was set.
        info: the backend.
        infos: every installed backend.
    """
    setting = settings.get(_KEY)
    task = task_named(setting.value) if setting is not None else None
    if setting is None or task is None or task in info.tasks:
        return list(problems)
    hint = f"{_who_can(task, infos)}, or take {_KEY} out"
    return [
        msgspec.structs.replace(problem, hint=hint)
        if problem.code == "config.not-supported" and problem.source == setting.source
        else problem
        for problem in problems
    ]


def task_problems(
    artifacts: ModelArtifacts, settings: Settings, info: BackendInfo, infos: Iterable[BackendInfo]
) -> list[Problem]:
    """What speaks against doing with a model what is asked, or, where nothing is asked, what it was made for.

    Args:
        artifacts: the model.
        settings: where ``option.task`` was set.
        info: the backend.
        infos: every installed backend.
    """
    setting, made_for = settings.get(_KEY), task_of_model(artifacts)
    asked = task_named(setting.value) if setting is not None else None
    what = ", ".join(artifacts.architectures) or artifacts.model_type
    if setting is not None and asked is Task.GENERATE and made_for not in (None, Task.GENERATE):
        if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in artifacts.architectures):
            return []
        does = f"; it {made_for.does}" if made_for is not None else ""
        message = f"{_KEY} is {setting.value}, and {what} does not continue a text{does}"
        hint = f"Take {_KEY} out, or use a causal language model"
        return [Problem(code=NOT_SERVED, message=message, hint=hint, path=artifacts.folder, source=setting.source)]
    if asked is not None or made_for is None or made_for in info.tasks:
        return []
    message = f"{what} does not continue a text, it {made_for.does}; {info.name} {_what(info)}"
    return [Problem(code=NOT_SERVED, message=message, hint=_who_can(made_for, infos), path=artifacts.folder)]


def _what(info: BackendInfo) -> str:
    return enumerated([task.does for task in info.tasks])


def _who_can(task: Task, infos: Iterable[BackendInfo]) -> str:
    names = sorted(info.name for info in infos if task in info.tasks)
    if not names:
        known = [
            f"{info.name} {task.does} (pip install {package})"
            for info, package in known_backends()
            if task in info.tasks
        ]
        return f"No installed backend {task.does}" + "".join(f"; {each}" for each in known)
    return f"Serve it with a backend that {task.does} (option.rolling_batch): {', '.join(names)}"
