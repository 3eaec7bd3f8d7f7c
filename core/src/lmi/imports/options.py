# SPDX-License-Identifier: Apache-2.0
"""Which options there are, asked of the core and of the installed backends' config types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import BaseModel

from lmi.api import (
    Accelerator,
    ArtifactFormat,
    ConfigError,
    LmiError,
    ModelArtifacts,
    PluginError,
    Problem,
    Severity,
    Target,
)
from lmi.config import ModelOptions, Setting, Settings, names, parse
from lmi.config.sources import read_settings
from lmi.config.typed import fill, keys_of
from lmi.config.values import FILE_MARK
from lmi.plugins import Plugins
from lmi.target import DEGREE, too_few_devices, with_devices

ROLLING_BATCH = "option.rolling_batch"
SELECTORS = (ROLLING_BATCH, "option.entryPoint", "engine")
_TARGET = Target(accelerator=Accelerator.CUDA, n_devices=1)
"""What the servers that are imported from run on, where nobody says how many there are."""
_ANY_MODEL = ModelArtifacts(format=ArtifactFormat.PRETRAINED)


class Options:
    """The options of one backend, or of all of them while none is chosen.

    Args:
        plugins: what is installed.
        target: the machine that is to serve; None is any with GPUs.
    """

    def __init__(self, plugins: Plugins, target: Target | None = None) -> None:
        self.plugins = plugins
        self.target = target or _TARGET
        self._is_certain = target is not None
        self.types = {
            name: kind
            for name, kind in plugins.config_types().items()
            if plugins.backends[name].needs_model  # one that serves without a model is no one's successor
        }
        self.backend = ""
        self.missing = ""
        kinds: list[type[BaseModel]] = [ModelOptions, *plugins.config_types().values()]
        self._keys = {kind: keys_of(kind) for kind in kinds}

    def answering_to(self, name: str) -> str:
        """The installed backend that a value of option.rolling_batch selects, or ""."""
        for info in self.plugins.backends.values():
            if name.lower() in (info.name, *(each.lower() for each in info.rolling_batch)):
                return info.name
        return ""

    def take(self, name: str) -> None:
        """The backend that answers to a value of option.rolling_batch is to serve, installed or not."""
        self.backend = self.answering_to(name)
        self.missing = "" if self.backend else name

    def choose(self, settings: Sequence[Setting], decides: bool, required: Iterable[Setting]) -> Setting | None:
        """Take the backend that the settings select, or find out which one they need.

        Args:
            settings: in the order of their weight, lowest first.
            decides: choose one where ``auto`` would take a backend that lacks a required setting.
            required: settings that a backend must take.
        Returns:
            The setting that must be written so that this backend serves; None where none is needed.
        """
        found = Settings(settings)
        try:
            wanted = self.plugins.wanted(found, self.target)
        except PluginError:  # told by `judged`
            self.missing = next((found[key].value for key in SELECTORS if key in found), "the backend that serves")
            return None
        if wanted is not None:
            self.backend = wanted.info.name
        if wanted is not None or not decides:
            return None
        needs = [each for each in required if any(self._takes(name, each) for name in self.types)]
        needs = [each for each in needs if not self.has(ModelOptions, each.key)]
        try:
            self.backend = self.plugins.choose(found, _ANY_MODEL, self.target).info.name
        except LmiError:
            return None
        able = [name for name in self.types if all(self._takes(name, each) for each in needs)]
        if self.backend in able or not able:
            return None
        refused = [each for each in needs if not self._takes(self.backend, each)]
        self.backend = min(able, key=self._rank)
        return Setting(ROLLING_BATCH, self.backend, f"needed for {', '.join(each.source for each in refused)}")

    def has(self, kind: type[BaseModel], key: str) -> bool:
        """Whether a type has an option under this name, or an alias of it."""
        return self._in(kind, key) != ""

    def key_of(self, backend: str, name: str) -> str:
        """The key of an argument that a backend's library calls so, whichever backend is to serve."""
        kind = self.types.get(self.answering_to(backend))
        return (self._in(kind, f"option.{name}") if kind is not None else "") or f"option.{name}"

    def main_key(self, key: str) -> str:
        """The one name of an option, or "" where neither the core nor a backend in question has it."""
        return next((found for kind in self._kinds() if (found := self._in(kind, key))), "")

    def is_switch(self, backend: str, key: str, *, is_off_unset: bool | None = None) -> bool:
        """Whether an option of a backend is true or false; with ``is_off_unset``, only one that is false when unset."""
        kind = self.types.get(self.answering_to(backend))
        info = kind.model_fields.get(self._keys[kind].get(key, "")) if kind is not None else None
        if info is None or info.annotation not in (bool, bool | None):
            return False
        return is_off_unset in (None, info.default is False)

    def owners(self, key: str) -> list[str]:
        """The installed backends that have an option, the first choice first."""
        return sorted((name for name, kind in self.types.items() if self.has(kind, key)), key=self._rank)

    def fault(self, setting: Setting) -> Problem | None:
        """What is wrong with a value, if no backend in question takes it."""
        if _is_open(setting):
            return None
        first = _placeholder(setting)
        if first is not None:
            return first
        core = self._faults(ModelOptions, setting)
        kinds = [kind for kind in self._kinds() if kind is not ModelOptions and self.has(kind, setting.key)]
        for kind in kinds:
            found = self._faults(kind, setting)
            if not found:
                return core[0] if core else None
            first = first or found[0]
        return core[0] if core else first

    def hint(self, key: str) -> str:
        """The nearest option, else where to look."""
        known = {each.removeprefix(names.PREFIX): each for kind in self._kinds() for each in self._keys[kind]}
        near = names.nearest(key.removeprefix(names.PREFIX), known)
        return (
            f"Did you mean '{known[near]}'?" if near else f"All options: lmi config --keys {self.backend or 'BACKEND'}"
        )

    def judged(self, settings: Sequence[Setting]) -> list[Problem]:
        """What is wrong with all settings together."""
        judged = [replace(each, written="") for each in settings if not each.value.startswith(FILE_MARK)]
        found = with_devices(Settings(judged), self.target)
        too_few = too_few_devices(found, self.target) if self._is_certain else []
        try:
            self.plugins.wanted(found, self.target)
        except PluginError as error:
            warning = Severity.WARNING
            return [Problem(code=error.code, message=error.message, hint=error.hint, severity=warning), *too_few]
        if not self.backend:
            return too_few
        types = self.plugins.config_types()
        try:
            judged_so = parse(found, self.plugins.backends[self.backend], types.pop(self.backend), types).warnings
        except ConfigError as error:
            judged_so = list(error.problems)
        return [*judged_so, *(each for each in too_few if each not in judged_so)]

    def _kinds(self) -> list[type[BaseModel]]:
        if self.backend:
            return [ModelOptions, self.plugins.config_types()[self.backend]]
        return [ModelOptions, *self.types.values()]

    def _in(self, kind: type[BaseModel], key: str) -> str:
        keys = self._keys[kind]
        written = key if key in keys else next((each for each in keys if each.lower() == key.lower()), "")
        if not written:
            return ""
        field = keys[written]
        return names.canonical(kind.model_fields[field].alias or field)

    def _takes(self, name: str, setting: Setting) -> bool:
        """Whether a backend has the option and takes the value; of methods of compression, one that it declares."""
        kind = self.types[name]
        if setting.key == "option.quantize" and setting.value.lower() not in self.plugins.backends[name].quantizations:
            return False
        return self.has(kind, setting.key) and (_is_open(setting) or not self._faults(kind, setting))

    def _rank(self, name: str) -> tuple[int, str]:
        return (-self.plugins.backends[name].priority, name)

    def _faults(self, kind: type[BaseModel], setting: Setting) -> list[Problem]:
        key = self._in(kind, setting.key)
        if not key:
            return []
        _, problems = fill(kind, Settings([replace(setting, key=key)]))
        return [each for each in problems if each.code == "config.invalid-value"]


def _is_open(setting: Setting) -> bool:
    """Whether a value is known on the machine that serves only."""
    return setting.value.startswith(FILE_MARK) or (setting.key == DEGREE and setting.value.lower() == "max")


def _placeholder(setting: Setting) -> Problem | None:
    """The problem of a value that a template leaves to be filled in."""
    read = read_settings(model_folder=None, environ={}, flags={setting.key: setting.value})
    return next((each for each in read.problems if each.code == "config.placeholder"), None)
