# SPDX-License-Identifier: Apache-2.0
"""Settings: every value with where it came from and what it overrode."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lmi.api import Problem
from lmi.config import names


@dataclass(frozen=True, repr=False)
class Setting:
    """One value as text.

    Args:
        key: canonical name, ``option.dtype`` or ``job_queue_size``.
        value: the text, without surrounding blanks.
        source: where it stands: ``serving.properties:4``, ``OPTION_DTYPE``, ``command line -o dtype``.
        overrode: settings of the same key that this one beat, highest first.
        written: the key as the user wrote it; empty where it is the canonical name.
        is_foreign: a variable made for another server; an option that the backend lacks is then no mistake.
        rank: of its layer; a higher one beats a lower.
    """

    key: str
    value: str
    source: str
    overrode: tuple[Setting, ...] = ()
    written: str = ""
    is_foreign: bool = False
    rank: int = 0

    @property
    def shown(self) -> str:
        """The value as it may be printed; secrets are masked."""
        return names.shown(self.key, self.value)

    def __repr__(self) -> str:
        beaten = f", overrode={self.overrode!r}" if self.overrode else ""
        return f"Setting({self.key}={self.shown} from {self.source}{beaten})"


class Settings(Mapping[str, Setting]):
    """All settings of one model by canonical name, and what was wrong or doubtful while reading them."""

    def __init__(self, settings: Iterable[Setting] = (), problems: Iterable[Problem] = ()) -> None:
        """Args:
        settings: lowest layer first; a later setting of the same key beats an earlier one.
        """
        self._by_key: dict[str, Setting] = {}
        for setting in settings:
            beaten = self._by_key.get(setting.key)
            overrode = (replace(beaten, overrode=()), *beaten.overrode) if beaten else ()
            self._by_key[setting.key] = replace(setting, overrode=overrode)
        self.problems = tuple(problems)

    def __getitem__(self, key: str) -> Setting:
        return self._by_key[names.canonical(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def replaced(self, setting: Setting) -> Settings:
        """The same settings with another one for its key."""
        others = [each for each in self._by_key.values() if each.key != setting.key]
        settings = Settings((), self.problems)
        settings._by_key = {each.key: each for each in [*others, setting]}
        return settings

    def with_problems(self, further: Iterable[Problem]) -> Settings:
        """The same settings with more that is wrong or doubtful."""
        settings = Settings((), (*self.problems, *further))
        settings._by_key = dict(self._by_key)
        return settings

    def without(self, keys: Collection[str]) -> Settings:
        """The same settings but for some canonical keys."""
        settings = Settings((), self.problems)
        settings._by_key = {key: each for key, each in self._by_key.items() if key not in keys}
        return settings

    def text(self, key: str) -> str | None:
        """The value of a key, or None where nothing sets it."""
        setting = self.get(key)
        return setting.value if setting else None

    def __repr__(self) -> str:
        return f"Settings({list(self._by_key.values())!r})"
