# SPDX-License-Identifier: Apache-2.0
"""Versions of what a compiled model depends on: as a flag says, as an image's file says, else as installed here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from lmi.api import BackendInfo, ConfigError
from lmi.config.names import nearest

FILE_VARIABLE = "LMI_VERSIONS_FILE"
DEFAULT_FILE = Path("/opt/lmi/versions.json")
"""Where an image writes what it holds: a json object, ``{"NAME": "VERSION"}``."""

_PAIR = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*=\s*([0-9][\w.+!-]*)\s*")


def parse_versions(text: str, infos: Iterable[BackendInfo]) -> dict[str, str]:
    """What ``--target`` says: ``NAME=VERSION``, separated by commas.

    Args:
        text: the flag's value; empty says nothing.
        infos: installed backends, which know the names that anything depends on.
    Raises:
        ConfigError: it is nothing of that form, or no backend compiles with something of that name.
    """
    known = sorted({name for info in infos for name in info.compilers})
    versions: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        match = _PAIR.fullmatch(part)
        if match is None:
            message = f"--target {part.strip()!r} is no NAME=VERSION"
            raise ConfigError("target.unknown", message, (), f"Write it like {known[0] if known else 'NAME'}=1.0")
        name = canonicalize_name(match[1])
        if name not in known:
            near = nearest(name, known)
            hint = f"Did you mean {near}?" if near else f"Known: {', '.join(known) or 'none'}"
            raise ConfigError("target.unknown", f"--target names {match[1]}, which no backend compiles with", (), hint)
        versions[name] = match[2]
    return versions


def versions_of(
    given: Mapping[str, str], environ: Mapping[str, str], infos: Iterable[BackendInfo], *, is_here: bool
) -> dict[str, str]:
    """The versions of a machine; what is not known is left out.

    Args:
        given: by the flag, which wins.
        environ: ``LMI_VERSIONS_FILE`` names the image's file.
        infos: installed backends.
        is_here: whether the machine is this one, so that what is installed counts.
    Raises:
        ConfigError: the image's file cannot be read.
    """
    versions: dict[str, str] = {}
    if is_here:
        for name in {name for info in infos for name in info.compilers}:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return {**versions, **_of_image(environ), **given}


def _of_image(environ: Mapping[str, str]) -> dict[str, str]:
    named = environ.get(FILE_VARIABLE)
    path = Path(named) if named else DEFAULT_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if not named:
            return {}
        raise _unreadable(path, "there is no such file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(each, str) for each in content.values()):
        raise _unreadable(path, "it is no object of names and versions")
    return {canonicalize_name(name): version for name, version in content.items()}


def _unreadable(path: Path, reason: str) -> ConfigError:
    message = f"the versions of this image cannot be read from {path}: {reason}"
    return ConfigError("target.unreadable", message, (), f'It looks like {{"NAME": "1.0"}}; {FILE_VARIABLE} names it')
