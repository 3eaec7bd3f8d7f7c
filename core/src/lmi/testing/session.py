# SPDX-License-Identifier: Apache-2.0
"""One run of the contract from the command line, in this process's pytest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from lmi.api import NotFoundError, PluginError
from lmi.config.names import did_you_mean
from lmi.plugins import Kind, Plugins
from lmi.testing import pytest_plugin
from lmi.testing.case import BackendCase

_PYTEST_OPTIONS = (
    "-p", "no:cacheprovider", "-p", "no:lmi_contract", "-c", os.devnull, "--rootdir", os.sep, "--import-mode=importlib",
    "--no-header", "--tb=no", "-q", "-r", "N", "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
"""Nothing of a project that happens to lie around; no:lmi_contract, because that plugin is handed over."""

_case: ContextVar[BackendCase] = ContextVar("case")

GROUP = "lmi.contract"
"""Entry points that name a BackendCase: backend name -> ``module:CASE``."""


def run(
    backend: str,
    *,
    model: str | None = None,
    settings: Mapping[str, str] | None = None,
    is_exact: bool | None = None,
    rules: str = "",
    reports: Sequence[Path] = (),
) -> int:
    """Test a backend that is installed.

    Args:
        backend: its name.
        model: instead of the case's model.
        settings: beside the case's settings.
        is_exact: instead of the case's word.
        rules: ids and groups to run, comma-separated; all if empty.
        reports: files to write.
    Returns:
        Pytest's exit code: 0 when every rule is kept or a known failure.
    Raises:
        NotFoundError: there is no such backend.
        PluginError: its case cannot be read.
    """
    case = replace(published_case(backend), **_given(model=model, is_exact=is_exact))
    case = replace(case, settings={**case.settings, **(settings or {})})
    arguments = [str(Path(__file__).with_name("contract_of_backend.py")), *_PYTEST_OPTIONS, f"--lmi-rules={rules}"]
    arguments += [f"--lmi-report={path.absolute()}" for path in reports]
    token = _case.set(case)
    try:
        return int(pytest.main(arguments, plugins=[pytest_plugin]))
    finally:
        _case.reset(token)


def chosen_case() -> BackendCase:
    """The case of the run that is under way in this process."""
    return _case.get()


def published_case(backend: str) -> BackendCase:
    """The case a plugin publishes, else one with nothing but its name."""
    names = sorted(r.name for r in Plugins.discover({}, only_backend=backend).records if r.kind is Kind.BACKEND)
    if backend not in names:
        installed = sorted(each.name for each in entry_points(group="lmi.backends"))
        hint = did_you_mean(backend, installed, f"Installed: {', '.join(installed) or 'none'}")
        raise NotFoundError("plugin.not-installed", f"there is no backend '{backend}'", hint)
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


def _given(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}
