# SPDX-License-Identifier: Apache-2.0
"""What is to be served, and everything that was written about it: models, their settings, and the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmi.api import ArtifactError, ConfigError, Problem, Progress, Severity, Target
from lmi.artifacts import exists, is_folder, is_object_url, model_root
from lmi.artifacts.places.archives import is_archive
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.finding import NotFetchedError, content_of, place_of
from lmi.artifacts.places.location import is_web_url, local_path
from lmi.config import Settings, names, read_settings
from lmi.config.hosted import from_container
from lmi.config.model_entries import ModelEntry, check_names, models_in, parse_load_models, path_of
from lmi.config.properties import FILE_NAME, PropertiesFile, parse_properties
from lmi.config.server import (
    ServerOptions,
    defaults_of_models,
    named_file,
    read_server_settings,
    server_options,
)
from lmi.config.settings import Setting
from lmi.container import Container
from lmi.target import on_machine
from lmi.unread import unread_file

DEFAULT_MODEL_FOLDER = Path("/opt/ml/model")
"""Where a container finds its model. Source: the SageMaker container contract."""

_MODEL_ID = "option.model_id"
_NOT_GIVEN = "command line"
_STORE = "model store"
"""Source of an entry that nobody wrote: the store, while a variable names the model."""
_NOTHING_THERE = ("model.not-found", "model.not-a-folder")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written about one model.

    Args:
        folder: the folder that may hold serving.properties, weights and code; None where there is none.
        written: every setting, ``option.model_id`` among them.
        settings: the same as they hold on this machine: numbers of devices instead of ``max``.
        target: the machine they are for.
        files: what is where the entry's URL leads, if that is elsewhere and was listed.
    """

    folder: Path | None
    written: Settings
    settings: Settings
    target: Target
    files: ModelFiles | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a server is to start with.

    Args:
        entries: the models; none where ``load_models`` is NONE, or ALL finds none.
        server: the server's options.
        server_settings: where they were set.
        warnings: what is doubtful about them.
        defaults: what config.properties says of every model.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        default_folder: where a container finds its model.
    """

    entries: tuple[ModelEntry, ...]
    server: ServerOptions
    server_settings: Settings
    warnings: tuple[Problem, ...]
    defaults: tuple[Setting, ...]
    flags: Mapping[str, str] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    default_folder: Path = DEFAULT_MODEL_FOLDER


def read_start(
    model: str | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    name: str | None = None,
    server_flags: Mapping[str, str] | None = None,
    config_file: str | None = None,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
) -> Start:
    """The server's options and its models: that of the command line, else those of ``load_models``, else the store's.

    Args:
        model: of the command line.
        environ: environment variables.
        flags: keys and values of ``-o key=value``.
        name: of the command line, for a single model.
        server_flags: the server's keys on the command line.
        config_file: config.properties; None looks in the usual places.
        default_folder: the model store where none is set.
    Raises:
        ConfigError: with everything that is wrong.
    """
    settings = read_server_settings(environ, config_file=named_file(config_file), flags=server_flags)
    server, warnings = server_options(settings)
    entries = _entries(model, server, settings, flags, environ, default_folder)
    if len(entries) == 1 and name is not None:
        entries = [replace(entries[0], name=name)]
    check_urls(entries, server, settings)
    return Start(
        entries=tuple(entries), server=server, server_settings=settings, warnings=tuple(warnings),
        defaults=tuple(defaults_of_models(settings)), flags=flags, environ=environ,
        default_folder=default_folder,
    )  # fmt: skip


def _entries(
    model: str | None,
    server: ServerOptions,
    settings: Settings,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    default_folder: Path,
) -> list[ModelEntry]:
    if model is not None:
        return [ModelEntry(url=path_of(model))]
    # Its text, because NONE as a value would mean that nothing is set.
    wanted = settings.text("load_models")
    if wanted is not None and wanted.upper() == "NONE":
        return []
    if wanted is not None and wanted.upper() != "ALL":
        return parse_load_models(wanted, settings["load_models"].source)
    if wanted is None and Container.of(environ).is_multi_model:
        return []  # the platform says what to load, and when
    given = read_settings(model_folder=None, environ=environ, flags=flags)
    return _in_store(server, settings, given, default_folder, is_asked=wanted is not None)


def _in_store(
    server: ServerOptions, server_settings: Settings, given: Settings, default_folder: Path, *, is_asked: bool
) -> list[ModelEntry]:
    """The models of the store; one model where the configuration names it."""
    store = default_folder if server.model_store is None else Path(server.model_store)
    store_setting = server_settings.get("model_store")
    source = _NOT_GIVEN if store_setting is None else store_setting.source
    if not is_folder(store) and store_setting is not None:
        raise ConfigError(
            "config.no-model-store", f"model_store={store} ({source}) is not a folder", (), "Correct it, or remove it"
        )
    if _MODEL_ID in given:
        return [ModelEntry(url=str(store) if is_folder(store) else None, source=_STORE)]
    found = models_in(store, source) if is_folder(store) else []
    check_names(found, source)
    # Asked for everything, nothing is an answer; asked for nothing, the user is told that there is no model.
    return found or ([] if is_asked else [ModelEntry()])


def check_urls(entries: Sequence[ModelEntry], server: ServerOptions, server_settings: Settings) -> None:
    """Refuse models from places that ``model_url_pattern`` does not allow.

    Raises:
        ConfigError: with all of them.
    """
    if server.model_url_pattern is None:
        return
    source = server_settings["model_url_pattern"].source
    try:
        pattern = re.compile(server.model_url_pattern)
    except re.error as error:
        message = f"model_url_pattern={server.model_url_pattern} ({source}) is no regular expression: {error}"
        raise ConfigError("config.invalid-value", message, (), "Correct it, or remove it") from error
    refused = [entry.url for entry in entries if entry.url is not None and not pattern.fullmatch(entry.url)]
    if refused:
        message = f"{', '.join(refused)} does not match model_url_pattern={pattern.pattern} ({source})"
        raise ConfigError("config.url-refused", message, (), "Load models from places that it allows, or change it")


def read_configuration(
    entry: ModelEntry,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    default_folder: Path = DEFAULT_MODEL_FOLDER,
    defaults: Sequence[Setting] = (),
    devices: str | Target | None = None,
    progress: Progress | None = None,
) -> Written:
    """Every setting of one model, and the machine they are for.

    Args:
        entry: the model; without a URL it is what ``option.model_id`` says, else what ``default_folder`` holds.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        default_folder: where a container finds its model.
        defaults: what config.properties says of every model.
        devices: another machine than this one, or its devices as ``cuda:4``.
        progress: told how far an archive's way here is; None leaves one that is elsewhere where it is.
    Raises:
        ConfigError: ``devices`` is no machine; or a variable of the platform is not in its form.
        ArtifactError: the entry is in an object store that cannot be read.
    """
    folder, files = _place(entry, default_folder, environ, progress)
    url = entry.url if folder is None else None
    file, model, problems = None, None, []
    defaults = [*from_container(environ), *defaults]
    if url is not None and _is_elsewhere(url):
        # As with a folder, the files lie beside serving.properties unless that, or a variable, says otherwise.
        file = _remote_file(files)
        defaults = [Setting(_MODEL_ID, url, entry.source), *defaults]
    elif url is not None:
        given = read_settings(model_folder=None, environ=environ, flags=flags).get(_MODEL_ID)
        is_missed = entry.is_asked_for and not exists(Path(url))
        if given is not None and _is_path(url) and not is_missed:
            problems = [] if entry.source == _STORE else [_nothing_there(entry, given)]
        else:
            model = Setting(_MODEL_ID, url, entry.source)
    settings = read_settings(
        model_folder=folder, environ=environ, flags=flags, model=model, file=file, defaults=defaults,
        entry=entry.settings,
    )  # fmt: skip
    problems += [*unread_file(settings, folder, url), *_beside(entry, settings, folder)]
    settings = settings.without(entry.left_out).with_problems(problems)
    here, target = on_machine(settings, environ, devices)
    return Written(folder=folder, written=settings, settings=here, target=target, files=files)


def _place(
    entry: ModelEntry, default_folder: Path, environ: Mapping[str, str], progress: Progress | None
) -> tuple[Path | None, ModelFiles | None]:
    """The folder that may hold serving.properties, or else what is listed of a place elsewhere.

    An empty folder is none; an archive's is where it was unpacked.
    """
    url = entry.url
    if url is not None and (_is_elsewhere(url) or (is_archive(url) and not is_folder(Path(url)))):
        files = _listed(url, environ, progress)
        return (Path(files.place), None) if files is not None and files.is_here else (None, files)
    folder = default_folder if url is None else local_path(url) or Path(url)
    is_filled = is_folder(folder) and any(not path.name.startswith(".") for path in folder.iterdir())
    return (model_root(folder) if is_filled else None), None


def _is_elsewhere(url: str) -> bool:
    """Whether it is a prefix or an archive that is not on this machine."""
    return is_object_url(url) or (is_web_url(url) and is_archive(url))


def _listed(url: str, environ: Mapping[str, str], progress: Progress | None) -> ModelFiles | None:
    """What is there; None of an archive that cannot be seen into, or of a prefix that has nothing: is it wanted as
    a model, that is told with everything else."""
    try:
        return place_of(url, None, None, environ=environ, progress=progress, may_fetch=progress is not None)
    except NotFetchedError:
        return None
    except ArtifactError as error:
        if is_archive(url) or error.code not in _NOTHING_THERE:
            raise
        return None


def _is_path(url: str) -> bool:
    """Whether it can be nothing but a path; ORG/NAME can be an id of the hub."""
    return url.startswith(("/", "./", "../", "~")) or exists(Path(url))


def _remote_file(files: ModelFiles | None) -> PropertiesFile:
    content = None if files is None else content_of(files, FILE_NAME)
    return PropertiesFile() if files is None or content is None else parse_properties(content, files.at(FILE_NAME))


def _beside(entry: ModelEntry, settings: Settings, folder: Path | None) -> list[Problem]:
    """What is doubtful about the folder: weights that are not served, a file that is hardly called as it should be."""
    if folder is None:
        return []
    problems = []
    setting = settings.get(_MODEL_ID)
    is_elsewhere = setting is not None and setting.source in (*names.FOREIGN_VARIABLES, "OPTION_MODEL_ID")
    if setting is not None and is_elsewhere and (folder / "config.json").is_file() and not _is_same(setting, folder):
        problems.append(
            Problem(
                code="config.overruled",
                message=f"the model in {folder} is not served: {setting.source} names {setting.shown}",
                hint=f"Unset {setting.source} to serve the folder's own",
                source=entry.source,
                severity=Severity.WARNING,
            )
        )
    if not os.path.lexists(folder / FILE_NAME):
        for each in folder.iterdir():
            if names.nearly(each.name, [FILE_NAME]):
                problems.append(
                    Problem(
                        code="config.file-not-read",
                        message=f"{each} is not read: the name is {FILE_NAME}",
                        hint=f"Rename it to {FILE_NAME}",
                        path=str(each),
                        severity=Severity.WARNING,
                    )
                )
    return problems


def _is_same(setting: Setting, folder: Path) -> bool:
    path = Path(setting.value)
    return is_folder(path) and model_root(path).resolve() == folder.resolve()


def _nothing_there(entry: ModelEntry, given: Setting) -> Problem:
    is_empty = is_folder(Path(entry.url or ""))
    return Problem(
        code="config.empty-folder",
        message=f"{entry.url} {'is empty' if is_empty else 'does not exist'}; {given.value} is served, as "
        f"{given.source} says",
        hint="Nothing is to be done if that is meant",
        source=entry.source,
        severity=Severity.WARNING,
    )
