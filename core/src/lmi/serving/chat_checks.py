# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a model's chat template, known before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lmi.api.artifacts import ModelArtifacts
from lmi.api.errors import Problem, Severity
from lmi.artifacts.places.files import ModelFiles
from lmi.config.settings import Setting
from lmi.serving.chat_files import DEFAULT, TemplateSource, find_chat_files

if TYPE_CHECKING:
    from lmi.serving.chat_environment import BrokenTemplateError


def template_problems(
    artifacts: ModelArtifacts,
    files: ModelFiles | None = None,
    *,
    option: str | None = None,
    setting: Setting | None = None,
    folder: Path | None = None,
) -> list[Problem]:
    """What is wrong with a model's chat templates; a model without one is in order.

    Args:
        artifacts: the model's files.
        files: the same to be read, here or elsewhere.
        option: ``option.chat_template``. What is wrong with it is an error; what is wrong with the model's own template
            is a warning, for the model still answers prompts.
        setting: where the option was set.
        folder: the one with the model's configuration, None where there is none.
    """
    found = find_chat_files(option, artifacts, files, folder)
    problems = list(found.problems)
    if found.templates:
        from lmi.serving.chat_environment import BrokenTemplateError, compiled  # most of what a check does needs none
    for name, template in found.templates.items():
        try:
            compiled(template.text)
        except BrokenTemplateError as error:
            problems.append(_problem(why_broken(name, template, error), "" if option else template.place))
    if not option:
        return problems
    source = setting.source if setting is not None else ""
    return [msgspec.structs.replace(each, severity=Severity.ERROR, source=source) for each in problems]


def _problem(message: str, path: str) -> Problem:
    hint = "Correct the template, or set option.chat_template to one that is right"
    severity = Severity.WARNING
    return Problem(code="chat.template-invalid", message=message, hint=hint, path=path, severity=severity)


def why_broken(name: str, template: TemplateSource, error: BrokenTemplateError) -> str:
    """Why a template cannot be compiled, as a sentence that names the line."""
    which = "" if name == DEFAULT else f" {name!r}"
    line = f", line {error.line}" if error.line else ""
    return f"the chat template{which} in {template.place}{line}: {error}"
