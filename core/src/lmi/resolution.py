# SPDX-License-Identifier: Apache-2.0
"""What a configuration comes to: the backend, its options, the copies and their devices. No weight is read.

One path for everybody: ``lmi serve`` and ``lmi check`` go on from here to the model's files, ``lmi config`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lmi.api import (
    ArtifactError,
    ArtifactFormat,
    BackendInfo,
    ConfigError,
    LmiError,
    ModelArtifacts,
    Problem,
    Progress,
    Severity,
    Target,
)
from lmi.artifacts import detect, is_local, refused_location
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.artifacts.places.finding import NotFetchedError, place_of
from lmi.artifacts.places.location import model_root
from lmi.checking import certain_problems_told, problems_of
from lmi.config import Parsed, Settings
from lmi.config.model_entries import ModelEntry
from lmi.config.properties import FILE_NAME
from lmi.config.settings import Setting
from lmi.config.typed import config_error, judge
from lmi.config.values import is_placeholder
from lmi.custom import options as custom_options
from lmi.custom.model_file import BESIDE, Kind, ModelFile, find_model_file
from lmi.devices.copies import Copies, copies_of, copies_of_custom
from lmi.devices.degree import refusals_of, with_default_degree
from lmi.devices.fitting import device_problems, missing_device
from lmi.plugins import Choice, Plugins
from lmi.plugins.choice import no_model
from lmi.plugins.tasks import with_those_that_can
from lmi.reading import DEFAULT_MODEL_FOLDER, read_configuration
from lmi.toolchain import versions_of
from lmi.unread import unread_elsewhere


@dataclass
class Resolution:
    """What a configuration comes to, as far as it goes.

    Args:
        entry: the model.
        folder: the one that may hold serving.properties, weights and code.
        written: every setting, as it was written.
        given: the same as they hold on this machine.
        settings: those without what the model's own file uses up, with the degree that holds where nothing sets it.
        target: the machine.
        environ: environment variables.
        is_here: whether the machine is this one.
        progress: told how far an archive's way here is; None leaves one that is elsewhere where it is.
        model_file: the model's own Python file, if it has one.
        choice: the backend; None where none could be chosen. A model that is a Python file has a stand-in.
        listed: what is where the entry's URL leads, if that is elsewhere and was listed for the settings.
        files: where the model's files are; None where they were not looked at, or there is no model.
        artifacts: what they are; None where they were not looked at.
        parsed: the typed options; None where they do not hold.
        copies: how many workers there are, and the devices of each.
        problems: errors and warnings, in the order they were found.
        failure: what stopped it; None where nothing did.
    """

    entry: ModelEntry
    folder: Path | None
    written: Settings
    given: Settings
    settings: Settings
    target: Target
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_here: bool = True
    progress: Progress | None = None
    model_file: ModelFile | None = None
    choice: Choice | None = None
    listed: ModelFiles | None = None
    files: ModelFiles | None = None
    artifacts: ModelArtifacts | None = None
    parsed: Parsed | None = None
    copies: Copies = field(default_factory=Copies)
    problems: list[Problem] = field(default_factory=list)
    failure: LmiError | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the model's files are to be fetched from elsewhere."""
        model_id = self.settings.text("option.model_id")
        return model_id is not None and _takes_files(self.choice) and not is_local(model_id, self.folder)


def resolve(
    entry: ModelEntry,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
    defaults: Sequence[Setting] = (),
    devices: str | Target | None = None,
    versions: Mapping[str, str] | None = None,
    needs_files: bool = True,
    progress: Progress | None = None,
) -> Resolution:
    """Resolve a configuration; what is wrong with it is kept in ``problems`` and ``failure``.

    Args:
        entry: what to load. Its URL is a folder, an object store's prefix, or ORG/NAME; None takes
            ``option.model_id``, else ``default_folder`` if there is anything in it, else nothing, for backends that
            need no model.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        plugins: what is installed.
        default_folder: see ``entry``.
        defaults: what config.properties says of every model.
        devices: another machine than this one, or its devices as ``cuda:4``.
        versions: of what compiled models depend on, where the user says them.
        needs_files: False looks at the model's files only where the choice of a backend depends on them.
        progress: told how far an archive's way here is; None leaves one that is elsewhere where it is.
    Raises:
        ConfigError: ``devices`` is no machine, or the image's file of versions cannot be read.
    """
    is_here = devices is None
    try:
        written = read_configuration(
            entry, flags=flags, environ=environ, default_folder=default_folder, defaults=defaults, devices=devices,
            progress=progress,
        )  # fmt: skip
    except ArtifactError as error:  # of a place that cannot be read, nothing else is known
        nothing = Settings()
        return Resolution(
            entry, None, nothing, nothing, nothing, Target(), environ, is_here=is_here, failure=error,
            problems=problems_of(error),
        )  # fmt: skip
    known = versions_of(versions or {}, environ, plugins.backends.values(), is_here=is_here)
    target = msgspec.structs.replace(written.target, versions=known)
    found = Resolution(
        entry, written.folder, written.written, written.settings, written.settings, target, environ,
        is_here=is_here, progress=progress, listed=written.files,
    )  # fmt: skip
    try:
        _resolve(found, plugins, needs_files=needs_files)
    except LmiError as error:
        found.failure = error
        # The settings' own problems are among those of typed options, but not of an error before those.
        told = [*found.problems, *found.settings.problems, *problems_of(error)]
        found.problems = list(dict.fromkeys(told))
    _judge_devices(found)
    return found


def _resolve(found: Resolution, plugins: Plugins, *, needs_files: bool) -> None:
    model = find_model_file(found.folder, found.given, found.environ)
    found.problems += model.warnings
    found.model_file, found.settings = model.file, model.settings
    if model.file is not None and model.file.kind is Kind.CUSTOM:
        _resolve_custom(found, model.file)
        return
    with certain_problems_told(found.settings, plugins):
        found.choice = plugins.wanted(found.settings, found.target)
    if found.choice is not None and found.is_remote and not needs_files:
        _type(found, plugins)
        found.problems += [*found.choice.warnings, *_refused_place(found)]
        _divide(found)
        return
    try:
        _look(found, plugins, needs_files=needs_files)
    except ArtifactError as error:
        raise _with_wrong_options(found, plugins, error) from error
    _type(found, plugins)
    _divide(found)
    if _info(found).needs_model and found.artifacts is not None and found.artifacts.format is ArtifactFormat.NONE:
        raise no_model(f"{_info(found).name} needs a model and none was given")


def _resolve_custom(found: Resolution, file: ModelFile) -> None:
    """A model that is a Python file of its own; no backend is asked."""
    _refuse_errors(missing_device(found.settings, found.target))
    file, parsed = custom_options.parse_custom(found.settings, file, found.folder, found.target)
    found.model_file, found.parsed, found.artifacts = file, parsed, ModelArtifacts()
    found.choice = Choice(custom_options.INFO, f"{file.name} has the function {file.function}")
    found.copies = copies_of_custom(found.given, parsed.options, custom_options.INFO, found.target, found.environ)
    found.problems += [*parsed.warnings, *found.copies.problems]


def _look(found: Resolution, plugins: Plugins, *, needs_files: bool) -> None:
    """The model's files as far as they are at hand, and the backend that is for them."""
    with certain_problems_told(found.settings, plugins):
        try:
            _find_artifacts(found)
        except LmiError:
            if found.choice is None or needs_files:
                raise
        found.choice = plugins.choose(found.settings, found.artifacts, found.target)
    found.problems += found.choice.warnings


def _with_wrong_options(found: Resolution, plugins: Plugins, error: ArtifactError) -> LmiError:
    """Why the files cannot be had, with what is wrong with the options where it is known whose they are."""
    if found.choice is None:
        return error
    try:
        _type(found, plugins)
    except ConfigError as wrong:
        return config_error([*wrong.problems, *problems_of(error)])
    return error


def _refused_place(found: Resolution) -> list[Problem]:
    """Why a model cannot be had from where it is said to be, without asking for it."""
    refusal = refused_location(found.settings.text("option.model_id") or "")
    if refusal is None:
        return []
    source = found.settings["option.model_id"].source
    return [Problem(code=refusal.code, message=refusal.message, hint=refusal.hint, source=source)]


def _type(found: Resolution, plugins: Plugins) -> None:
    """The typed options, with the degree that holds where nothing sets one."""
    info = _info(found)
    refusals = refusals_of(plugins, info, found.artifacts, found.target)
    found.settings = with_default_degree(found.settings, info, found.target, refusals)
    found.parsed, problems = _judged(found, plugins, info)
    found.problems += problems
    _refuse_errors(problems)


def _divide(found: Resolution) -> None:
    """The devices, among the copies."""
    parsed = found.parsed
    assert parsed is not None  # noqa: S101 - _type would have raised
    degree = parsed.config.n_devices
    found.copies = copies_of(found.settings, parsed.options, degree, _info(found), found.target, found.environ)
    found.problems += found.copies.problems


def _judge_devices(found: Resolution) -> None:
    """Tell what speaks against the devices, whatever else is wrong; it stops nobody who only wants to see."""
    if found.model_file is not None and found.model_file.kind is Kind.CUSTOM:
        return
    info = None if found.choice is None else found.choice.info
    n_devices = None if found.parsed is None else found.parsed.config.n_devices
    told = device_problems(found.settings, info, found.target, n_devices)
    found.problems += [problem for problem in told if problem not in found.problems]
    found.settings = found.settings.with_problems(told)


def _info(found: Resolution) -> BackendInfo:
    assert found.choice is not None  # noqa: S101 - chosen before
    return found.choice.info


def _judged(found: Resolution, plugins: Plugins, info: BackendInfo) -> tuple[Parsed | None, list[Problem]]:
    types = plugins.config_types()
    parsed, problems = judge(found.settings, info, types.pop(info.name), types)
    return parsed, with_those_that_can(problems, found.settings, info, plugins.backends.values())


def _refuse_errors(problems: Sequence[Problem]) -> None:
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        raise config_error(errors)


def _takes_files(choice: Choice | None) -> bool:
    if choice is None or choice.info.needs_model:
        return True
    return any(each != ArtifactFormat.NONE.value for each in choice.info.artifact_formats)


def _find_artifacts(found: Resolution) -> None:
    """Look at the model's files, wherever they are, and say in ``files`` and ``artifacts`` what was found.

    There are none for a backend that takes none, or where nothing but configuration and code is there.

    Args:
        found: ``settings``, ``folder`` and ``choice`` are read.
    Raises:
        ArtifactError: they are not there, or cannot be reached.
        ConfigError: nobody has filled in where they are.
    """
    model_id = found.settings.text("option.model_id")
    if not _takes_files(found.choice):
        _refuse_missing_folder(found, model_id)
        found.artifacts = ModelArtifacts()
        return
    if model_id is not None and is_placeholder(model_id):  # it is not looked for in a network
        _refuse_errors(found.settings.problems)
    try:
        files = _files(found, model_id)
    except NotFetchedError as error:
        if found.choice is None:
            hint = "Name the backend (option.rolling_batch) to check the configuration alone, or unpack it first"
            raise ArtifactError(error.code, error.message, [], hint) from error
        found.problems += error.problems
        return
    visible = set() if files is None else {name.partition("/")[0] for name in files.sizes}
    if files is None or (model_id is None and visible and BESIDE.union({FILE_NAME}).issuperset(visible)):
        found.artifacts = ModelArtifacts()
        return
    found.problems += unread_elsewhere(found.entry, files)
    found.files, found.artifacts = files, detect(files)


def _refuse_missing_folder(found: Resolution, model_id: str | None) -> None:
    """Refuse a folder that is not there for a backend that would not miss its files: its settings would be missed."""
    if model_id is None or model_id != found.entry.url or is_local(model_id):
        return
    if (refusal := refused_location(model_id)) is not None:
        raise refusal


def _files(found: Resolution, model_id: str | None) -> ModelFiles | None:
    """Where the model's files are; None where there is no model."""
    if model_id is None:
        return None if found.folder is None else LocalFiles(model_root(found.folder))
    if found.listed is not None and model_id == found.entry.url:
        return found.listed
    return place_of(
        model_id, found.settings.text("option.revision"), found.folder, environ=found.environ,
        progress=found.progress, may_fetch=found.progress is not None,
    )  # fmt: skip
