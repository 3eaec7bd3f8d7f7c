# SPDX-License-Identifier: Apache-2.0
"""One run of the contract from the command line, in this process's pytest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ConfigError, PluginError, Problem
from lmi.api.errors import counted
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text
from lmi.config.names import PREFIX, did_you_mean
from lmi.plugins import Kind, Plugins
from lmi.testing import pytest_plugin
from lmi.testing.case import BackendCase
from lmi.testing.checkpoints import ARCHITECTURES
from lmi.testing.contract import RULES, BackendContract
from lmi.testing.rules import GROUPS, ContractError, selects

_PYTEST_OPTIONS = (
    "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", os.sep, "--import-mode=importlib", "--no-header",
    "--tb=no", "-q", "-r", "N", "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
"""Nothing of a project that happens to lie around."""

_PYTEST_VARIABLES = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": None, "PYTEST_PLUGINS": None}
"""Nothing of the environment either: another plugin could deselect rules or hide the report."""

_case: ContextVar[BackendCase] = ContextVar("case")

GROUP = "lmi.contract"
"""Entry points that name a BackendCase: backend name -> ``module:CASE``."""

EXIT_KEPT, EXIT_BROKEN, EXIT_WRONG_INPUT = 0, 1, 2


def run(
    backend: str,
    *,
    model: str | None = None,
    settings: Mapping[str, str] | None = None,
    is_exact: bool | None = None,
    rules: str = "",
    lane: str = "",
    reports: Sequence[Path] = (),
) -> int:
    """Test a backend that is installed.

    Args:
        backend: its name.
        model: instead of the case's model: a folder, or a name of ARCHITECTURES.
        settings: beside the case's settings.
        is_exact: instead of the case's word.
        rules: ids and groups to run, comma-separated; all if empty.
        lane: the same again; only what is in both is run.
        reports: files to write.
    Returns:
        EXIT_KEPT when every rule is kept, not declared or a known failure, else EXIT_BROKEN.
    Raises:
        ConfigError: a rule, the model or an option does not exist; nothing was run.
        PluginError: there is no such backend, or its case cannot be used.
    """
    case = case_of(backend, model=model, settings=settings or {}, is_exact=is_exact)
    wanted, problems = chosen_rules(rules, lane)
    problems += unknown_model(model)
    if problems:
        raise ConfigError(
            "config.invalid", f"{counted(len(problems), 'problem')} on the command line; nothing was run", problems
        )
    arguments = [str(Path(__file__).with_name("contract_of_backend.py")), *_PYTEST_OPTIONS]
    arguments += [f"--lmi-rules={','.join(wanted)}", *(f"--lmi-report={path.absolute()}" for path in reports)]
    if settings:
        check_options(case)
    token = _case.set(case)
    try:
        with _environment(_PYTEST_VARIABLES):
            code = pytest.main(arguments, plugins=[pytest_plugin])
    finally:
        _case.reset(token)
    return EXIT_KEPT if code == pytest.ExitCode.OK else EXIT_BROKEN


def chosen_case() -> BackendCase:
    """The case of the run that is under way in this process."""
    return _case.get()


def case_of(
    backend: str, *, model: str | None = None, settings: Mapping[str, str] | None = None, is_exact: bool | None = None
) -> BackendCase:
    """The published case of a backend with what the command line says instead.

    Raises:
        PluginError: there is no such backend, or its case cannot be used.
    """
    case = replace(published_case(backend), **_given(model=model, is_exact=is_exact))
    merged = {key.removeprefix(PREFIX): value for key, value in {**case.settings, **(settings or {})}.items()}
    given = str(merged.get("max_rolling_batch_size", "")).strip()
    n_slots = int(given) if given.isdecimal() else 0  # what is no size is left to the checks of the configuration
    case = replace(case, settings=merged, n_slots=n_slots or case.n_slots)
    try:
        type("TestContract", (BackendContract,), {"case": case})
    except ContractError as error:
        raise PluginError("contract.bad-case", f"the case of backend '{backend}' cannot be used: {error}") from error
    return case


def check_options(case: BackendCase) -> None:
    """Refuse settings that no engine of this backend could be loaded with.

    Raises:
        ConfigError: with all that is wrong with them.
    """
    plugins = Plugins.discover({}, only_backend=case.backend)
    if case.backend not in plugins.backends:
        return  # a plugin that cannot be used is what the rules report
    info, options = plugins.backends[case.backend], plugins.config_type(case.backend)
    flags = {"rolling_batch": case.backend, **{key: as_text(value) for key, value in case.settings.items()}}
    folder = Path(case.model) if case.model and Path(case.model).is_dir() else None
    parse(read_settings(model_folder=folder, environ={}, flags=flags), info, options, {})


def chosen_rules(*texts: str) -> tuple[list[str], list[Problem]]:
    """The rules that every one of these comma-separated lists names; an empty list names them all.

    Returns:
        The ids, in the contract's order, and what is wrong with the lists.
    """
    lists = [[each.strip() for each in text.split(",") if each.strip()] for text in texts]
    problems = [problem for names in lists for problem in unknown_rules(names, "--rules")]
    found = [each for each in RULES if all(not names or selects(names, each) for names in lists)]
    if not found and not problems:
        message = f"no rule is in {' and in '.join(text for text in texts if text)}"
        hint = "Leave out --lane, or name rules of it"
        problems.append(Problem(code="contract.no-rules", message=message, hint=hint, source="--rules, --lane"))
    return found, problems


def unknown_rules(names: Iterable[str], source: str) -> list[Problem]:
    """One problem for each name that is neither a rule's nor a group's."""
    groups = ", ".join(f"{letter} ({title})" for letter, title in GROUPS.items())
    return [
        Problem(
            code="contract.unknown-rule",
            message=f"there is no rule and no group of rules '{name}'",
            hint=did_you_mean(name, [*RULES, *GROUPS], f"Groups: {groups}. Rules: {', '.join(RULES)}"),
            source=source,
        )
        for name in names
        if name not in RULES and name not in GROUPS
    ]


def unknown_model(model: str | None) -> list[Problem]:
    """A problem if this is neither a folder nor an architecture; the hub is not asked."""
    if model is None or model in ARCHITECTURES or Path(model).is_dir():
        return []
    message = f"'{model}' is neither a folder nor a tiny architecture"
    hint = did_you_mean(model, ARCHITECTURES, f"Architectures: {', '.join(ARCHITECTURES)}; models are not downloaded")
    return [Problem(code="contract.unknown-model", message=message, hint=hint, source="--model")]


def published_case(backend: str) -> BackendCase:
    """The case a plugin publishes, else one with nothing but its name.

    Raises:
        PluginError: there is no such backend, or its case cannot be read.
    """
    names = sorted(r.name for r in Plugins.discover({}, only_backend=backend).records if r.kind is Kind.BACKEND)
    if backend not in names:
        installed = sorted(each.name for each in entry_points(group="lmi.backends"))
        hint = did_you_mean(backend, installed, f"Installed: {', '.join(installed) or 'none'}")
        raise PluginError("plugin.not-installed", f"there is no backend '{backend}'", hint)
    for entry_point in entry_points(group=GROUP):
        if entry_point.name == backend:
            try:
                case = entry_point.load()
            except Exception as error:
                text = f"the case of backend '{backend}' ({entry_point.value}) cannot be read: {error}"
                raise PluginError("contract.bad-case", text, "It is named in the plugin's pyproject.toml") from error
            if not isinstance(case, BackendCase):
                text = f"{entry_point.value} is {case!r}, not a BackendCase"
                raise PluginError("contract.bad-case", text, "It is named in the plugin's pyproject.toml")
            return case
    return BackendCase(backend=backend)


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _given(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}
