# SPDX-License-Identifier: Apache-2.0
"""A table of how far a judgement is, for a terminal."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lmi.conformance.rules import GROUPS, Rule
from lmi.conformance.run import OUTCOMES, Outcome


class _Progress:
    def __init__(self, rules: Sequence[Rule]) -> None:
        self._totals = Counter(each.group for each in rules)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._now: Rule | None = None

    def note(self, what: Outcome | Rule) -> None:
        if isinstance(what, Rule):
            self._now = what
        else:
            self._now = None
            self._counts[what.rule.group, what.outcome] += 1

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("group", "rules", *OUTCOMES, "now"):
            table.add_column(name, justify="left" if name in ("group", "now") else "right")
        for group in GROUPS:
            if group in self._totals:
                counts = [self._counts[group, outcome] for outcome in OUTCOMES]
                now = self._now.title if self._now is not None and self._now.group == group else ""
                table.add_row(group, str(self._totals[group]), *(str(n or "") for n in counts), now)
        return table


@contextlib.contextmanager
def shown(rules: Sequence[Rule]) -> Iterator[Callable[[Outcome | Rule], None]]:
    """A table on standard error for the length of a block; gives what is to be told of rules and outcomes."""
    progress = _Progress(rules)
    with Live(progress, console=Console(stderr=True), transient=True, refresh_per_second=8):
        yield progress.note
