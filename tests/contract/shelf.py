# SPDX-License-Identifier: Apache-2.0
"""Backends that are broken in ways of their own, installed for one test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmi.testing import BackendCase
from lmi.testing.contract import RULES
from lmi.testing.kit import Kit
from tests.core.distributions import Distributions

MODEL_FREE = "needs_model=False"


class Shelf:
    """A folder of distributions on the path, and one broken backend in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.distributions = Distributions(folder)
        self._kits: list[Kit] = []

    def kit(self, more: str, *, extra: str = MODEL_FREE, **case) -> Kit:
        """The backend ``odd``: the one of Distributions with further code."""
        self.distributions.backend("odd", extra=extra, more=more)
        kit = Kit(BackendCase(**{"backend": "odd", "load_s": 60, **case}))
        self._kits.append(kit)
        return kit

    def library(self, name: str, *, modules: str = "", requires: tuple[str, ...] = ()) -> None:
        """A distribution with importable modules and requirements."""
        info = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "top_level.txt").write_text("\n".join(modules.split()) + "\n")
        for module in modules.split():
            (self.folder / f"{module}.py").write_text("")

    def close(self) -> None:
        for kit in self._kits:
            kit.close()
        self.distributions.forget()


@contextmanager
def new_shelf(folder: Path) -> Iterator[Shelf]:
    """A shelf whose distributions can be found for as long as the block lasts."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        found = Shelf(folder)
        try:
            yield found
        finally:
            found.close()


def keep(rule_id: str, kit: Kit) -> None:
    RULES[rule_id][1](None, kit)
