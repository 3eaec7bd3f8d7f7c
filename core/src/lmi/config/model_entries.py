# SPDX-License-Identifier: Apache-2.0
"""Which models a server starts with: the grammar of ``load_models``, and the models of a folder.

Source: DJL Serving's ``SERVING_LOAD_MODELS`` and model store, 0.26 and 0.27.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmi.api import ConfigError, Problem
from lmi.config.modes import ENGINE_MODES
from lmi.config.settings import Setting

DEFAULT_NAME = "model"
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".mar")

_ENTRY = re.compile(r"(?:\[?(?P<names>[^?\[\]/]*?)\]?=)?(?P<url>.+)")
_WITHOUT_SIGN = re.compile(r"[\w.-]*(:[\w.;*-]*){1,3}:?/(?!/)")
"""``test::Python:/opt/ml/model``, where the last colon should be a sign of equality."""

_N_FIELDS = 4


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model to load.

    Args:
        url: a folder, an object store's prefix, ORG/NAME; None where the configuration says what the model is.
        name: in URLs of requests.
        version: as it was given; empty where it was not.
        settings: what the entry itself sets: ``engine``, ``load_on_devices``.
        source: where the URL was given.
        left_out: canonical keys that do not count this time, whatever sets them.
        is_asked_for: whether a caller of a running server named it: where nothing is there, it is refused, though the
            configuration may name another model.
    """

    url: str | None = None
    name: str = DEFAULT_NAME
    version: str = ""
    settings: tuple[Setting, ...] = ()
    source: str = "command line"
    left_out: frozenset[str] = frozenset()
    is_asked_for: bool = False


def parse_load_models(text: str, source: str) -> list[ModelEntry]:
    """Read ``[NAME[:VERSION[:ENGINE[:DEVICES]]]]=URL`` entries, separated by commas or blanks; a bare URL is one, too.

    Args:
        text: of ``load_models``; fields may be empty, as in ``test::Python=/opt/ml/model``.
        source: where it was set.
    Raises:
        ConfigError: with every entry that is none, and every name that is given twice.
    """
    problems: list[Problem] = []
    entries = []
    for part in re.split(r"[,\s]+", text):
        if part:
            entry = _entry(part, source, problems)
            entries += [entry] if entry is not None else []
    problems += _given_twice(entries, source)
    if not entries and not problems:
        problems.append(_no_entry(text, source))
    if problems:
        raise ConfigError("config.invalid", f"load_models is {text!r}; nothing was loaded", problems)
    return entries


def models_in(store: Path, source: str) -> list[ModelEntry]:
    """The models of a folder: each folder and archive in it, or the folder itself where it holds anything else.

    Hidden names do not count, and empty folders are left out.

    Args:
        store: an existing folder.
        source: where it was named.
    """
    visible = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    if not visible:
        return []
    if not all(path.is_dir() or path.name.endswith(ARCHIVES) for path in visible):
        return [ModelEntry(url=str(store), name=name_of(str(store)), source=source)]
    filled = [
        path for path in visible if path.is_file() or any(not each.name.startswith(".") for each in path.iterdir())
    ]
    return [ModelEntry(url=str(path), name=name_of(str(path)), source=source) for path in filled]


def name_of(url: str) -> str:
    """The name of a model that has none: the last part of its URL without the ending, as one word."""
    last = url.rstrip("/*").rpartition("/")[2]
    ending = next((each for each in ARCHIVES if last.endswith(each)), "")
    return re.sub(r"\W|^_", "_", last.removesuffix(ending)) or DEFAULT_NAME


def check_names(entries: Sequence[ModelEntry], source: str) -> None:
    """Raise ConfigError where two models have one name."""
    problems = _given_twice(entries, source)
    if problems:
        raise ConfigError("config.invalid", "models share a name; nothing was loaded", problems)


def _entry(part: str, source: str, problems: list[Problem]) -> ModelEntry | None:
    found = _ENTRY.fullmatch(part)
    fields = (found["names"] or "").split(":") if found else []
    if found is None or found["url"].endswith("=") or len(fields) > _N_FIELDS:
        problems.append(_no_entry(part, source))
        return None
    name, version, engine, devices = fields + [""] * (_N_FIELDS - len(fields))
    if _WITHOUT_SIGN.match(found["url"]):
        problems.append(
            _no_entry(part, source, "The names end with = before the URL, as in test::Python=/opt/ml/model")
        )
        return None
    if version.lower() in ENGINE_MODES:
        problems.append(_no_entry(part, source, f"{version} stands where the version belongs: {name}::{version}=URL"))
        return None
    url = path_of(found["url"])
    settings = [("engine", engine), ("load_on_devices", devices)]
    return ModelEntry(
        url=url, name=name or name_of(url), version=version,
        settings=tuple(Setting(key, value, source) for key, value in settings if value), source=source,
    )  # fmt: skip


def path_of(url: str) -> str:
    """A ``file:`` URL as a path; any other as it is, without blanks around it."""
    return url.strip().removeprefix("file://").removeprefix("file:")


def _no_entry(
    part: str,
    source: str,
    hint: str = "Write it like test::Python=/opt/ml/model, with the devices separated by semicolons",
) -> Problem:
    return Problem(
        code="config.bad-model-entry",
        message=f"{part!r} in load_models is no [NAME[:VERSION[:ENGINE[:DEVICES]]]]=URL",
        hint=hint,
        source=source,
    )


def _given_twice(entries: Sequence[ModelEntry], source: str) -> list[Problem]:
    seen: dict[str, ModelEntry] = {}
    problems = []
    for entry in entries:
        earlier = seen.setdefault(entry.name, entry)
        if earlier is not entry:
            problems.append(
                Problem(
                    code="config.name-twice",
                    message=f"{earlier.url} and {entry.url} are both called '{entry.name}'",
                    hint="Name them: a=URL,b=URL; versions of one model are two models with two names here",
                    source=source,
                )
            )
    return problems
