# SPDX-License-Identifier: Apache-2.0
"""SageMaker's secure mode: which files a model must not have, and which options must be off.

Source: the secure mode of LMI containers; its variables are set by the platform alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lmi.api import ModelArtifacts, Problem
from lmi.config.coerce import coerce, is_true
from lmi.config.settings import Setting, Settings
from lmi.custom.source import FILE_NAME

MODE = "SAGEMAKER_SECURE_MODE"
CONTROLS = "SAGEMAKER_SECURITY_CONTROLS"
CHANNELS = "SAGEMAKER_UNTRUSTED_CHANNELS"
NO_SCRIPTS = "DISALLOW_CUSTOM_INFERENCE_SCRIPTS"
NO_REMOTE_CODE = "DISALLOW_TRUST_REMOTE_CODE"
NO_PICKLES = "DISALLOW_PICKLE_FILES"
NO_CHAT_TEMPLATE = "DISALLOW_CHAT_TEMPLATE"
NO_REQUIREMENTS = "DISALLOW_REQUIREMENTS_TXT"

_TRUST = "option.trust_remote_code"
_CHAT_TEMPLATE = "option.chat_template"
_PYTHON, _ENV, _MPI_ARGUMENTS = "option.pythonExecutable", "option.env", "option.mpi_arguments"
_OF_LOADERS = ("LD_", "PYTHON", "SAGEMAKER_")
"""What variables begin with that say where code is loaded from, or what is forbidden."""
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_REQUIREMENTS = "requirements.txt"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TEMPLATE_FILES = frozenset({"chat_template.json", "chat_template.jinja"})
_TEMPLATE_FOLDER = "additional_chat_templates"


def is_forbidden(control: str, environ: Mapping[str, str]) -> bool:
    """Whether secure mode is on with this control."""
    controls = {each.strip().upper() for each in environ.get(CONTROLS, "").split(",")}
    return is_true(environ.get(MODE, "")) and control in controls


def script_problems(scripts: set[Path], folder: Path | None, environ: Mapping[str, str]) -> list[Problem]:
    """A problem for each script where scripts are forbidden; what else brings code along is in ``secure_problems``.

    Args:
        scripts: what the configuration would run.
        folder: the model's; a ``model.py`` in it, or in one of its adapters, counts although nothing names it.
        environ: also read for further folders that are not trusted, which are searched whole.
    """
    if not is_forbidden(NO_SCRIPTS, environ):
        return []
    found = set(scripts)
    if folder is not None:
        found |= {folder / FILE_NAME, *folder.glob(f"adapters/*/{FILE_NAME}")}
    for channel in _channels(environ):
        found |= set(channel.rglob(FILE_NAME))
    return [
        Problem(
            code="script.forbidden",
            message=f"{path} is a script, and {CONTROLS} has {NO_SCRIPTS} while {MODE} is on",
            hint="Take the file out of the model, and option.entryPoint out of its configuration",
            path=str(path),
            source=CONTROLS,
        )
        for path in sorted({path.resolve() for path in found if path.is_file()})
    ]


def secure_problems(
    artifacts: ModelArtifacts | None, folder: Path | None, settings: Settings, environ: Mapping[str, str]
) -> list[Problem]:
    """A problem for everything but scripts that secure mode forbids; those are ``script_problems``.

    Args:
        artifacts: the model's files, here or elsewhere; None where there are none.
        folder: the folder that is served; None where there is none.
        settings: of the model.
        environ: also read for further folders that are not trusted, which are searched whole.
    """
    if not is_true(environ.get(MODE, "")):
        return []
    problems = []
    trust = settings.get(_TRUST)
    if trust is not None and is_true(trust.value) and is_forbidden(NO_REMOTE_CODE, environ):
        message = f"{_TRUST}={trust.value}"
        problems.append(_problem(message, NO_REMOTE_CODE, f"Unset {_TRUST}, or use a model without code", trust.source))
    if is_forbidden(NO_SCRIPTS, environ):
        problems += _of_code(settings, [*([] if folder is None else [folder]), *_channels(environ)])
    template = settings.get(_CHAT_TEMPLATE)
    if template is not None and template.value and is_forbidden(NO_CHAT_TEMPLATE, environ):
        hint = f"Unset {_CHAT_TEMPLATE}, and send prompts instead of messages"
        problems.append(_problem(f"{_CHAT_TEMPLATE} is set", NO_CHAT_TEMPLATE, hint, template.source))
    found: dict[str, Problem] = {}
    for place in _places(artifacts, folder, environ):
        for name in sorted(place.names):
            for problem in _of_file(place, name, environ):
                found.setdefault(f"{problem.path} {problem.message}", problem)
    return [*problems, *found.values()]


def _of_code(settings: Settings, untrusted: list[Path]) -> Iterator[Problem]:
    """Options that make a process run, or import, what the model brings along or its configuration says."""
    for setting in settings.values():
        if setting.key == _MPI_ARGUMENTS and setting.value:
            yield _problem(f"{setting.key} is set", NO_SCRIPTS, f"Unset {setting.key}", setting.source)
        elif setting.key == _ENV and (names := _loading(setting.value)):
            hint = f"Leave them out of {setting.key}"
            yield _problem(f"{setting.key} sets {', '.join(names)}", NO_SCRIPTS, hint, setting.source)
        elif _is_code(setting, untrusted):
            hint = f"Unset {setting.key}, or name a file of the image"
            yield _problem(f"{setting.key}={setting.value} is a file of the model", NO_SCRIPTS, hint, setting.source)


def _loading(text: str) -> list[str]:
    """The variables of ``option.env`` by which a process finds its code."""
    variables = coerce(text, dict[str, str])
    names = variables if isinstance(variables, dict) else {}
    return [name for name in names if name.startswith(_OF_LOADERS) or name == "PATH"]


def _is_code(setting: Setting, untrusted: list[Path]) -> bool:
    """Whether it names an interpreter, or a file of Python, that is not the image's own."""
    if setting.key != _PYTHON and not setting.value.endswith(".py"):
        return False
    path = Path(setting.value)
    places = (path.absolute(), path.resolve())
    return any(place.is_relative_to(each.resolve()) for each in untrusted for place in places)


@dataclass(frozen=True)
class _Place:
    """Files that are not trusted.

    Args:
        at: path or URL of the folder.
        names: of the files in it.
        documents: small json files of it.
    """

    at: str
    names: frozenset[str]
    documents: Mapping[str, Any]

    def has_template(self, name: str) -> bool:
        """Whether a tokenizer's configuration has a chat template."""
        content = self.documents.get(name)
        if content is None and "://" not in self.at:
            try:
                content = json.loads((Path(self.at) / name).read_bytes())
            except (OSError, ValueError, RecursionError):
                return False
        return isinstance(content, dict) and bool(content.get("chat_template"))


def _places(artifacts: ModelArtifacts | None, folder: Path | None, environ: Mapping[str, str]) -> Iterator[_Place]:
    if artifacts is not None and artifacts.folder:
        # The listing of a folder leaves out what is hidden or deep.
        names = artifacts.files if "://" in artifacts.folder else _names_in(Path(artifacts.folder))
        yield _Place(artifacts.folder, frozenset(names), artifacts.documents)
    folders = [] if folder is None or (artifacts is not None and str(folder) == artifacts.folder) else [folder]
    for each in [*folders, *_channels(environ)]:
        yield _Place(str(each.resolve()), frozenset(_names_in(each)), {})


def _names_in(folder: Path) -> Iterator[str]:
    """Every file below a folder, hidden ones too."""
    for at, _, names in os.walk(folder):
        for name in names:
            yield (Path(at) / name).relative_to(folder).as_posix()


def _of_file(place: _Place, name: str, environ: Mapping[str, str]) -> Iterator[Problem]:
    path, file = f"{place.at}/{name}", PurePosixPath(name)
    if file.suffix.lower() in _PICKLES and is_forbidden(NO_PICKLES, environ):
        yield _problem(f"{path} is a pickle", NO_PICKLES, "Convert the weights to safetensors", path=path)
    if file.name == _REQUIREMENTS and is_forbidden(NO_REQUIREMENTS, environ):
        yield _problem(f"{path} is there", NO_REQUIREMENTS, "Take the file out of the model", path=path)
    if is_forbidden(NO_CHAT_TEMPLATE, environ):
        is_template = file.name in _TEMPLATE_FILES or file.parent.name == _TEMPLATE_FOLDER
        if is_template or (file.name == _TOKENIZER_CONFIG and place.has_template(name)):
            hint = "Take the file, or the chat_template in it, out of the model, and send prompts instead of messages"
            yield _problem(f"{path} has a chat template", NO_CHAT_TEMPLATE, hint, path=path)


def _channels(environ: Mapping[str, str]) -> list[Path]:
    named = (each.strip() for each in environ.get(CHANNELS, "").split(","))
    return [Path(each) for each in named if each and Path(each).is_dir()]


def _problem(what: str, control: str, hint: str, source: str = CONTROLS, path: str = "") -> Problem:
    message = f"{what}, and {CONTROLS} has {control} while {MODE} is on"
    return Problem(code="model.forbidden", message=message, hint=hint, path=path, source=source)
