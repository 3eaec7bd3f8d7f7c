# SPDX-License-Identifier: Apache-2.0
"""What a worker's Python has of a backend's engine: the half of ``lmi.probing`` that runs there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

import lmi
from lmi.api import LmiError, PluginError, Problem, Severity
from lmi.api.backend import CONTRACT_VERSION
from lmi.checking import problems_of
from lmi.plugins import Plugins
from lmi.plugins.libraries import library_problems

QUESTION, ANSWER = "question.json", "answer.json"
"""Files of the folder that both halves know."""


def main(folder: str) -> None:
    """Answer the question in a folder; to be called in a process of its own, which it ends."""
    question = json.loads((Path(folder) / QUESTION).read_text("utf-8"))
    answer: dict[str, Any] = {"contract_version": CONTRACT_VERSION, "core_version": lmi.__version__, "problems": []}
    if question["contract_version"] == CONTRACT_VERSION:
        try:
            answer["problems"] = msgspec.to_builtins(_asked(question["backend"], question["options"]))
        except LmiError as error:
            answer["problems"] = msgspec.to_builtins(problems_of(error))
    (Path(folder) / ANSWER).write_text(json.dumps(answer), "utf-8")
    sys.stdout.flush()
    os._exit(0)  # an engine's threads need not end


def _asked(backend_name: str, options: dict[str, Any]) -> list[Problem]:
    plugins = Plugins.discover(only_backend=backend_name)
    hook = plugins.hooks(backend_name).lmi_check_engine
    problems = library_problems(plugins.backends[backend_name])
    if any(problem.severity is Severity.ERROR for problem in problems):
        return problems
    config = plugins.config_type(backend_name).model_validate(options)
    try:
        answers = hook(config=config)
    except LmiError:
        raise
    except (Exception, SystemExit) as error:
        message = f"lmi_check_engine failed for {backend_name}: {type(error).__name__}: {error}"
        raise PluginError("plugin.hook-failed", message, "This is a fault of the plugin, not of the model") from error
    return problems + [problem for answer in answers for problem in answer]
