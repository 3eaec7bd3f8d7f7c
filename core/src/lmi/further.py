# SPDX-License-Identifier: Apache-2.0
"""Models that options of another one name, such as the draft of a speculation: looked at with it, fetched with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lmi.api import ArtifactError, ArtifactFormat, BackendConfig, ModelArtifacts, Problem, Progress, Severity
from lmi.api.errors import counted
from lmi.artifacts import check, detect, is_local, is_object_url, refused_location, wanted_files
from lmi.artifacts.documents import read_documents
from lmi.artifacts.places.archives import is_archive
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.artifacts.places.finding import NotFetchedError, fetched, place_of
from lmi.checking import problems_of
from lmi.config import Settings
from lmi.config.typed import sources_of

_OF_TEXT = ("tokenizer",)
"""Areas of problems that say nothing against a model that is given ids alone."""


@dataclass(frozen=True)
class FurtherModels:
    """The models that options name, as far as they are looked at here.

    Args:
        places: field of the option -> where the files are.
        artifacts: field -> what they are.
        problems: what is wrong or doubtful about them.
    """

    places: Mapping[str, ModelFiles] = field(default_factory=dict)
    artifacts: Mapping[str, ModelArtifacts] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def further_models(
    config: BackendConfig,
    settings: Settings,
    folder: Path | None,
    *,
    environ: Mapping[str, str],
    progress: Progress | None = None,
) -> FurtherModels:
    """Look at the models that options name: in folders and archives here, and in object stores.

    A name on the hub is left to the backend, whose library fetches it; so is a folder on this machine that is no model.

    Args:
        config: the options.
        settings: where they were set.
        folder: in which relative paths are looked for too.
        environ: says where the cache is.
        progress: told how far an archive's way here is; None leaves one that is elsewhere where it is.
    """
    places: dict[str, ModelFiles] = {}
    artifacts: dict[str, ModelArtifacts] = {}
    problems: list[Problem] = []
    for name in (each for each in model_fields(type(config)) if getattr(config, each)):
        try:
            files = _place(str(getattr(config, name)), folder, environ, progress)
            if files is None:
                continue
            places[name], artifacts[name] = files, detect(files)
            found = check(artifacts[name], files)
        except NotFetchedError as error:
            found = list(error.problems)
        except ArtifactError as error:
            found = problems_of(error)
        problems += [_of_option(problem, name, config, settings) for problem in _told(found)]
    for name in folder_fields(type(config)):
        location = str(getattr(config, name) or "")
        if not is_object_url(location):
            continue
        try:
            places[name] = place_of(location, None, folder, environ=environ, may_fetch=False)
            artifacts[name] = _folder_of(places[name])
        except ArtifactError as error:
            problems += [_of_option(problem, name, config, settings) for problem in problems_of(error)]
    return FurtherModels(places, artifacts, tuple(problems))


def model_fields(config_type: type[BackendConfig]) -> list[str]:
    """Names of the options that say where another model is."""
    return _marked(config_type, "is_model")


def folder_fields(config_type: type[BackendConfig]) -> list[str]:
    """Names of the options that say where a folder is that is no model."""
    return _marked(config_type, "is_folder")


def _marked(config_type: type[BackendConfig], mark: str) -> list[str]:
    marks = {name: info.json_schema_extra for name, info in config_type.model_fields.items()}
    return [name for name, extra in marks.items() if isinstance(extra, dict) and extra.get(mark)]


def _folder_of(files: ModelFiles) -> ModelArtifacts:
    """A folder that is no model, as it is listed."""
    return ModelArtifacts(folder=files.place, files=dict(files.sizes), documents=read_documents(files))


def with_fetched(
    artifacts: ModelArtifacts,
    places: Mapping[str, ModelFiles],
    environ: Mapping[str, str],
    progress: Progress,
) -> ModelArtifacts:
    """The description of a model with its further models on this machine, fetched if they are elsewhere.

    Args:
        artifacts: of the model.
        places: of ``FurtherModels``.
        environ: says where the cache is.
        progress: told how far the fetching is.
    Raises:
        ArtifactError: they cannot be had, or are not what was listed.
    """
    further = dict(artifacts.further)
    for name, files in places.items():
        if files.is_here:
            continue
        if further[name].format is ArtifactFormat.NONE:  # no model: all of it is wanted, and nothing can be checked
            here = fetched(files, tuple(files.sizes), environ=environ, progress=progress)
            further[name] = _folder_of(LocalFiles(here))
            continue
        further[name] = detect(fetched(files, wanted_files(further[name]), environ=environ, progress=progress))
        errors = [each for each in _told(check(further[name])) if each.severity is Severity.ERROR]
        if errors:
            found = f"{counted(len(errors), 'problem')} in {further[name].folder}, fetched from {files.place}"
            raise ArtifactError("artifacts.invalid", f"{found}; nothing was loaded", errors)
    return msgspec.structs.replace(artifacts, further=further)


def _place(
    location: str, folder: Path | None, environ: Mapping[str, str], progress: Progress | None
) -> ModelFiles | None:
    """Where its files are; None of a name on the hub."""
    if not is_local(location, folder) and not is_object_url(location) and not is_archive(location):
        refusal = refused_location(location, folder)
        if refusal is not None:
            raise refusal
        return None
    return place_of(location, None, folder, environ=environ, progress=progress, may_fetch=progress is not None)


def _told(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.code.partition(".")[0] not in _OF_TEXT]


def _of_option(problem: Problem, name: str, config: BackendConfig, settings: Settings) -> Problem:
    return msgspec.structs.replace(
        problem,
        message=f"{name}={getattr(config, name)}: {problem.message}",
        source=problem.source or sources_of(type(config), (name,), settings),
    )
