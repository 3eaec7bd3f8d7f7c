# SPDX-License-Identifier: Apache-2.0
"""Which Python file a model brings, and what it is: an extension of that model, or a custom handler.

A file with hooks (``lmi_*``) or an output formatter extends the model that a backend serves. A file with a function
``handle`` is the whole model, as DJL Serving has it. The file is only looked at here; nothing of it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from lmi.api import ArtifactError, Problem, Severity, Task
from lmi.api.errors import counted
from lmi.config.names import did_you_mean
from lmi.config.settings import Setting, Settings
from lmi.custom.secure_mode import script_problems
from lmi.custom.source import FILE_NAME, GENERATION_HOOKS, WORKER_HOOKS, Source, read_source

BESIDE = frozenset({FILE_NAME, "requirements.txt"})
"""Files beside serving.properties that are no model."""

ENTRY_POINT = "option.entryPoint"
FUNCTION = "option.handler"
FORMATTER = "option.output_formatter"
_FORMS = ("json", "jsonlines", "sse")


class Kind(str, Enum):
    EXTENSION = "extension"
    CUSTOM = "custom"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's own Python file.

    Args:
        path: absolute.
        kind: EXTENSION of a model that a backend serves, or CUSTOM: its function is the model.
        function: of a CUSTOM file, the function that answers.
        hooks: of an EXTENSION, in alphabetical order.
        formatter: name of the function that writes the answers of an EXTENSION; empty for none.
        properties: what the function of a CUSTOM file is told: every option as text.
    """

    path: str
    kind: Kind
    function: str = ""
    hooks: tuple[str, ...] = ()
    formatter: str = ""
    properties: dict[str, str] = {}

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def runs_in_worker(self) -> bool:
        return self.kind is Kind.CUSTOM or not WORKER_HOOKS.isdisjoint(self.hooks)

    @property
    def runs_in_server(self) -> bool:
        return self.kind is Kind.EXTENSION and (bool(self.formatter) or not WORKER_HOOKS.issuperset(self.hooks))


@dataclass(frozen=True)
class Found:
    """What there is: the file if any, the settings without what it uses up, and what the user should know."""

    file: ModelFile | None
    settings: Settings
    warnings: tuple[Problem, ...] = ()


def find_model_file(folder: Path | None, settings: Settings, environ: Mapping[str, str]) -> Found:
    """Find a model's own file: the one ``option.entryPoint`` names, else ``model.py`` in its folder.

    Args:
        folder: the folder that is served; None where there is none.
        settings: also read for ``option.handler`` and ``option.output_formatter``.
        environ: read for SageMaker's secure mode.
    Raises:
        ArtifactError: with every problem: the file is missing, forbidden, no Python, or is neither of both kinds.
    """
    path, entry, problems = _path(folder, settings)
    problems += script_problems({path} if path is not None else set(), folder, environ)
    if problems:
        raise _invalid(problems, folder)
    if path is None:
        return Found(None, settings)
    source = read_source(path)
    if source.problems:
        raise _invalid(source.problems, folder)
    is_default = entry is None or _is_script(entry.value)
    formatter, spent = _formatter(source, settings)
    file, warnings = _judge(source, settings, formatter, is_default)
    if source.problems:
        raise _invalid(source.problems, folder)
    if entry is not None and is_default:
        spent.add(ENTRY_POINT)
    return Found(file, without(settings, spent), tuple(warnings))


def uncalled_problems(file: ModelFile | None, task: Task) -> list[Problem]:
    """What of a model's own file would never be called: most of it, where the model generates no text.

    Args:
        file: the model's own, if it has one.
        task: what the model is served for.
    """
    if file is None or file.kind is not Kind.EXTENSION or task is Task.GENERATE:
        return []
    uncalled = [hook for hook in file.hooks if hook in GENERATION_HOOKS]
    uncalled += [f"the output formatter {file.formatter}"] if file.formatter else []
    if not uncalled:
        return []
    return [
        Problem(
            code="script.not-called",
            message=f"{file.name} has {', '.join(uncalled)}: called for generated text, and this model {task.does}",
            hint=f"Take that out of {file.name}, or do it in front of the server",
            path=file.path,
        )
    ]


def without(settings: Settings, keys: set[str]) -> Settings:
    """The settings but for some keys."""
    return Settings([each for key, each in settings.items() if key not in keys], settings.problems)


def _is_script(entry_point: str) -> bool:
    return entry_point.endswith(".py") or "://" in entry_point


def _path(folder: Path | None, settings: Settings) -> tuple[Path | None, Setting | None, list[Problem]]:
    """The file, the setting that names an entry point, and what is wrong with it."""
    entry = settings.get(ENTRY_POINT)
    if entry is None or not _is_script(entry.value):
        default = folder / FILE_NAME if folder is not None else None
        return (default.resolve() if default is not None and default.is_file() else None), entry, []
    if "://" in entry.value:
        message = f"{ENTRY_POINT}={entry.value}: entry points are not fetched from elsewhere"
        return None, entry, [_problem("script.missing", message, "Copy the file into the model's folder", entry)]
    path = (folder or Path()) / entry.value
    if path.is_file():
        return path.resolve(), entry, []
    scripts = sorted(each.name for each in folder.glob("*.py")) if folder is not None else []
    listed = f"Python files there: {', '.join(scripts)}" if scripts else "There is no Python file in the folder"
    hint = did_you_mean(Path(entry.value).name, scripts, listed)
    message = f"{ENTRY_POINT}={entry.value}: there is no file {path}"
    return None, entry, [_problem("script.missing", message, hint, entry)]


def _formatter(source: Source, settings: Settings) -> tuple[str, set[str]]:
    """The function that writes answers, and the setting that is used up because it names it."""
    setting = settings.get(FORMATTER)
    if setting is not None and setting.value.lower() not in _FORMS:
        if setting.value in source.names:
            return setting.value, {FORMATTER}
        hint = did_you_mean(
            setting.value, [*source.names, *_FORMS], "Name a function of the file, json, jsonlines or sse"
        )
        source.problem(
            "script.no-formatter", f"{FORMATTER}={setting.value} ({setting.source}): "
            f"{source.path.name} has no such function", hint,
        )  # fmt: skip
    if len(source.formatters) > 1:
        named = ", ".join(source.formatters)
        source.problem(
            "script.no-formatter", f"{named} are all marked @output_formatter; one can write the answers",
            "Keep the mark on one of them",
        )  # fmt: skip
    return (source.formatters[0] if source.formatters else ""), set()


def _judge(
    source: Source, settings: Settings, formatter: str, is_default: bool
) -> tuple[ModelFile | None, list[Problem]]:
    """What the file is; None where it has nothing to say."""
    wanted = settings.text(FUNCTION) or "handle"
    has_function = wanted in source.names
    path, hooks = str(source.path), tuple(sorted(source.hooks))
    warnings = []
    if hooks and has_function and is_default:
        source.problem(
            "script.both", f"{source.path.name} has hooks ({', '.join(hooks)}) and the function {wanted}; "
            "it can extend a model or be one",
            f"Take one of them out, or rename {wanted}", source.names[wanted],
        )  # fmt: skip
    elif has_function and is_default:
        if formatter:
            warnings.append(_unused(source, formatter, f"{wanted} writes its answers itself"))
        return ModelFile(path=path, kind=Kind.CUSTOM, function=wanted), warnings
    elif hooks or formatter:
        if has_function:
            warnings.append(_unused(source, wanted, f"{ENTRY_POINT}={settings.text(ENTRY_POINT)} serves the model"))
        return ModelFile(path=path, kind=Kind.EXTENSION, hooks=hooks, formatter=formatter), warnings
    elif is_default:
        _nothing(source, settings, wanted)
    elif has_function:
        warnings.append(_unused(source, wanted, f"{ENTRY_POINT}={settings.text(ENTRY_POINT)} serves the model"))
    return None, warnings


def _nothing(source: Source, settings: Settings, wanted: str) -> None:
    setting = settings.get(FUNCTION)
    told = f" ({FUNCTION}, {setting.source})" if setting is not None else ""
    there = ", ".join(source.names) or "nothing"
    source.problem(
        "script.nothing", f"{source.path.name} has neither a hook (lmi_*) nor the function {wanted}{told}; "
        f"it defines {there}",
        did_you_mean(wanted, source.names, f"Write {wanted}(inputs), write hooks, or take the file out of the model"),
    )  # fmt: skip


def _unused(source: Source, name: str, reason: str) -> Problem:
    return Problem(
        code="script.unused",
        message=f"{name} of {source.path.name} is not used: {reason}",
        hint="Take it out, or leave it",
        path=str(source.path),
        source=f"{source.path.name}:{source.names[name]}",
        severity=Severity.WARNING,
    )


def _problem(code: str, message: str, hint: str, setting: Setting) -> Problem:
    return Problem(code=code, message=message, hint=hint, source=setting.source)


def _invalid(problems: list[Problem], folder: Path | None) -> ArtifactError:
    where = f" in {folder}" if folder is not None else ""
    return ArtifactError(
        "artifacts.invalid", f"{counted(len(problems), 'problem')}{where}; nothing was loaded", problems
    )
