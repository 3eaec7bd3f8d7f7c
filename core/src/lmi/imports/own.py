# SPDX-License-Identifier: Apache-2.0
"""Variables of LMI itself: read exactly as the server reads them, then told apart."""

from __future__ import annotations

from lmi.api import ConfigError
from lmi.config import Setting, names, read_settings
from lmi.config.model_entries import ModelEntry, parse_load_models
from lmi.config.server import NOT_SUPPORTED, OF_NO_USE
from lmi.config.values import FILE_MARK
from lmi.imports.options import Options
from lmi.imports.wishes import Wishes
from lmi.reading import DEFAULT_MODEL_FOLDER

LOAD_MODELS = "SERVING_LOAD_MODELS"
_SERVER_PREFIX = "SERVING_"
_UNDECIDED = ("all", "none")


def collect(wishes: Wishes, options: Options) -> None:
    """Every setting that the variables make, in the order of their layers."""
    entry = _entry(wishes)
    # A value that names a file stays what it is: the file need not be on this machine.
    read = {name: "@" if value.strip().startswith(FILE_MARK) else value for name, value in wishes.variables.items()}
    for setting in read_settings(model_folder=None, environ=read, flags={}, entry=entry).values():
        for each in (*reversed(setting.overrode), setting):
            wishes.settings.append(_as_written(each, wishes, options))
    for variable, value in wishes.variables.items():
        if variable in wishes.outcomes:
            continue
        if variable.startswith(_SERVER_PREFIX) and variable != LOAD_MODELS:
            _note_server_variable(wishes, variable)
        elif variable.startswith("OPTION_") and variable != "OPTION_" and not value.strip():
            wishes.leave_out(variable, "it is empty, which counts as unset")
        elif variable.startswith(names.PREFIX):
            wishes.lose(
                variable, "it is a line of serving.properties, which needs no import",
                "Put the file into the model's folder and run: lmi config FOLDER", changes=True,
            )  # fmt: skip


def _as_written(setting: Setting, wishes: Wishes, options: Options) -> Setting:
    """The setting under its variable's name, with a value that names a file as it was written."""
    variable = setting.written or setting.source
    raw = wishes.variables.get(variable, "").strip()
    value = raw if raw.startswith(FILE_MARK) else setting.value
    return Setting(options.main_key(setting.key) or setting.key, value, variable, written=variable)


def _entry(wishes: Wishes) -> list[Setting]:
    """What SERVING_LOAD_MODELS says of the one model it names; of several, no file can say it."""
    text = wishes.variables.get(LOAD_MODELS, "").strip()
    if not text:
        return []
    if text.lower() in _UNDECIDED:
        wishes.keep(LOAD_MODELS, "it is for the server, not for one model")
        return []
    try:
        entries = parse_load_models(text, LOAD_MODELS)
    except ConfigError as error:
        problem = error.problems[0] if error.problems else None
        why, hint = (problem.message, problem.hint) if problem else (error.message, error.hint)
        wishes.lose(LOAD_MODELS, why, hint, changes=True)
        return []
    if len(entries) != 1:
        wishes.keep(LOAD_MODELS, f"it names {len(entries)} models, and a file is for one")
        return []
    return _of_one_model(entries[0], wishes)


def _of_one_model(entry: ModelEntry, wishes: Wishes) -> list[Setting]:
    settings = list(entry.settings)
    url = (entry.url or "").rstrip("/")
    if url.startswith(FILE_MARK):
        wishes.lose(LOAD_MODELS, f"'{url}' is no place of a model", "Name a folder, s3:// or ORG/NAME", changes=True)
        return []
    if url and url != str(DEFAULT_MODEL_FOLDER):
        settings.append(Setting("option.model_id", url, LOAD_MODELS))
    if entry.name != "model" and entry.name.isascii() and entry.name.isidentifier():
        wishes.flags["--name"] = f"--name {entry.name}"
    if not settings:
        wishes.leave_out(LOAD_MODELS, "the container's model folder is served without it")
    return settings


def _note_server_variable(wishes: Wishes, variable: str) -> None:
    key = names.from_variable(variable.removeprefix(_SERVER_PREFIX))
    short = key.removeprefix(names.PREFIX)
    if not wishes.variables[variable].strip():
        wishes.leave_out(variable, "it is empty, which counts as unset")
    elif key in names.SERVER_KEYS:
        wishes.keep(variable, "it is for the server, not for one model")
    elif short in OF_NO_USE:
        wishes.leave_out(variable, OF_NO_USE[short])
    elif short in NOT_SUPPORTED:
        wishes.lose(variable, "LMI does not support it", NOT_SUPPORTED[short], changes=True)
