# SPDX-License-Identifier: Apache-2.0
"""The engine libraries that a backend drives: which of them this Python has, and whether their versions were tested."""

from __future__ import annotations

import sys
from importlib import metadata

from lmi.api import BackendInfo, EngineLibrary, PluginError, Problem, Severity


def installed(library: EngineLibrary) -> dict[str, str]:
    """The builds of a library that this Python has, with their versions; empty where there is none."""
    found = {}
    for name in library.names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def library_problems(info: BackendInfo) -> list[Problem]:
    """What is wrong with a backend's engine libraries, by what is installed; nothing is imported.

    Args:
        info: the backend.
    Returns:
        An error for those that are missing; warnings for versions it was not tested with, and for builds of one library
        that were installed over each other.
    Raises:
        PluginError: a range of versions in its description cannot be read.
    """
    found = {choice: installed(choice) for library in info.engine_libraries for choice in library.choices}
    absent = [each for each in info.engine_libraries if not any(found[choice] for choice in each.choices)]
    problems = [_absent(info, absent)] if absent else []
    for library, versions in found.items():
        problems += [
            _untested(info, library, name, version)
            for name, version in versions.items()
            if not _is_tested(info, library, version)
        ]
        if len(versions) > 1:
            problems.append(_two_builds(versions))
    return problems


def _absent(info: BackendInfo, libraries: list[EngineLibrary]) -> Problem:
    names = ", ".join(" or ".join(name for choice in each.choices for name in choice.names) for each in libraries)
    message = f"{info.name} needs {names}, which {sys.executable} does not have"
    hint = info.install or f"{sys.executable} -m pip install {' '.join(each.distribution for each in libraries)}"
    return Problem(code="engine.not-installed", message=message, hint=hint)


def _is_tested(info: BackendInfo, library: EngineLibrary, version: str) -> bool:
    if not library.versions:
        return True
    # Only what asks for an engine pays for this import.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(library.versions).contains(version, prereleases=True)
    except InvalidVersion:
        return False
    except InvalidSpecifier as error:
        message = f"{info.name} was tested with {library.distribution} {library.versions!r}, which is no range"
        raise PluginError("plugin.bad-description", message, "This is a fault of the plugin") from error


def _untested(info: BackendInfo, library: EngineLibrary, name: str, version: str) -> Problem:
    wanted = f"{name}{library.versions}"
    return Problem(
        code="engine.untested-version",
        message=f"{name} {version} is installed, and {info.name} was tested with {wanted}",
        hint=f"If it does not work: {sys.executable} -m pip install '{wanted}'",
        severity=Severity.WARNING,
    )


def _two_builds(versions: dict[str, str]) -> Problem:
    named = " and ".join(f"{name} {version}" for name, version in versions.items())
    return Problem(
        code="engine.two-builds",
        message=f"{named} are both installed; their files overwrite each other",
        hint=f"{sys.executable} -m pip uninstall -y {' '.join(versions)}, then install one of them",
        severity=Severity.WARNING,
    )
