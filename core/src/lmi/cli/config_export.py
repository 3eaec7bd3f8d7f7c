# SPDX-License-Identifier: Apache-2.0
"""``lmi config --env`` and ``--properties``: what was set, in one of the two forms a configuration has."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from lmi.api import ConfigError
from lmi.config import Setting
from lmi.config.model_entries import DEFAULT_NAME, ModelEntry, parse_load_models
from lmi.config.names import SERVER_KEYS
from lmi.config.writing import Form, Line, lines_of, variable_of
from lmi.custom.options import INFO as CUSTOM
from lmi.effective import Effective
from lmi.reading import Start

_MODEL_ID = "option.model_id"
_LOAD_MODELS = "load_models"
_OF_THE_COMMAND = {_LOAD_MODELS, "model_store"}
"""Keys of the server that say what is served, which is written as it was found."""

_HOLD_FOR_ALL = (
    "note: variables hold for all models of a server; a line that not all models have is a comment: write it into that "
    "model's serving.properties, as --properties shows it"
)


def print_form(found: Sequence[Effective], start: Start, form: Form) -> bool:
    """Print every model's settings in a form; what it cannot hold is told on standard error.

    Returns:
        Whether all of it could be written; secrets, which never are, do not count.
    """
    if len(found) > 1 and form is Form.VARIABLES:
        lines = _print_of_several(found, start)
    else:
        lines = [] if form is Form.FILE else _print_of_server(start, with_models=any(map(_is_custom, found)))
        for each in found:
            _print_heading(each, found)
            lines += _print_lines(lines_of(_settings(each, form), form))
            if each.name != DEFAULT_NAME and len(found) == 1 and not _is_custom(each):
                click.echo(f"# lmi serve --name {shlex.quote(each.name)}")
    for line in dict.fromkeys(str(line) for line in lines if not line.text):
        click.echo(line, err=True)
    return all(line.text or line.is_secret for line in lines)


def _settings(found: Effective, form: Form) -> list[Setting]:
    """What was set, as it was written, and where the model is."""
    settings = list(found.given.values())
    if found.model_place and not _is_custom(found):
        settings.append(Setting(_MODEL_ID, found.model_place, "command line"))
    return sorted(settings, key=lambda each: variable_of(each.key) if form is Form.VARIABLES else each.key)


def _is_custom(found: Effective) -> bool:
    """Whether the model is a Python file, which lies in the folder that is served and nowhere else."""
    return found.choice is not None and found.choice.info is CUSTOM


def _print_lines(lines: list[Line]) -> list[Line]:
    for line in lines:
        if line.text:
            click.echo(line.text)
    return lines


def _print_heading(each: Effective, found: Sequence[Effective]) -> None:
    if len(found) > 1:
        click.echo(f"\n# model    {each.name}")


def _print_of_server(start: Start, *, with_models: bool) -> list[Line]:
    """Keys of the server, and ``SERVING_LOAD_MODELS`` where only that names what is served."""
    settings = [each for each in start.server_settings.values() if each.key in SERVER_KEYS - _OF_THE_COMMAND]
    lines = lines_of(sorted(settings, key=lambda each: each.key), Form.VARIABLES)
    if with_models or not start.entries:
        lines.append(_load_models(start.entries))
    return _print_lines(lines)


def _load_models(entries: Sequence[ModelEntry]) -> Line:
    """What ``load_models`` says to have these models."""
    setting = Setting(_LOAD_MODELS, ",".join(_entry(each) for each in entries) or "NONE", "the models that were found")
    wanted = [(each.name, each.version, _absolute(each.url)) for each in entries]
    try:
        read = parse_load_models(setting.value, _LOAD_MODELS) if entries else []
    except ConfigError:
        read = []
    if wanted != [(each.name, each.version, each.url) for each in read]:
        return Line(setting, why="it has no words for such a name or folder", instead="Rename it")
    return lines_of([setting], Form.VARIABLES)[0]


def _entry(entry: ModelEntry) -> str:
    values = {each.key: each.value for each in entry.settings}
    fields = [entry.name, entry.version, values.get("engine", ""), values.get("load_on_devices", "")]
    return f"{':'.join(fields).rstrip(':')}={_absolute(entry.url)}"


def _absolute(url: str | None) -> str:
    return str(Path(url).resolve()) if url and Path(url).exists() else url or ""


def _print_of_several(found: Sequence[Effective], start: Start) -> list[Line]:
    """What all models share as variables, and the rest as comments, since no variable is for one model."""
    lines = _print_of_server(start, with_models=True)
    entries = dict(zip((each.name for each in found), start.entries, strict=True))
    by_model = {each.name: list(_own_lines(each, entries[each.name])) for each in found}
    times = Counter(line.text for own in by_model.values() for line in own)
    shared = {text for text, n_models in times.items() if text and n_models == len(found)}
    for text in sorted(shared):
        click.echo(text)
    for each in found:
        _print_heading(each, found)
        for line in by_model[each.name]:
            lines.append(line)
            if line.text and line.text not in shared:
                click.echo(f"# {line.text}")
    click.echo(_HOLD_FOR_ALL, err=True)
    return lines


def _own_lines(found: Effective, entry: ModelEntry) -> Iterator[Line]:
    """The lines of a model, but for what its entry says."""
    said = {*(each.key for each in entry.settings), _MODEL_ID}
    settings = [each for each in found.given.values() if each.key not in said or each.source != entry.source]
    yield from lines_of(sorted(settings, key=lambda each: variable_of(each.key)), Form.VARIABLES)
