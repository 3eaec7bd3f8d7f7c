# SPDX-License-Identifier: Apache-2.0
"""What became of each rule, as a matrix on the terminal, as JSON and as Markdown."""

from __future__ import annotations

import datetime
import json
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import lmi
from lmi.api import BackendInfo, Capability
from lmi.serving.capabilities import SAMPLING_CAPABILITIES
from lmi.target import detect_target
from lmi.testing.rules import GROUPS, Rule

KEPT, NOT_DECLARED, BROKEN, KNOWN, NOT_RUN = "kept", "not declared", "broken", "known failure", "not run"
"""Outcomes of a rule. NOT_DECLARED: it is about something the backend neither has nor says that it has. A known failure
that is kept after all counts as broken, so that the entry goes."""

_MARKS = {KEPT: "ok", NOT_DECLARED: "n/a", BROKEN: "FAILED", KNOWN: "known", NOT_RUN: "-"}


@dataclass
class Outcome:
    """Of one rule: what became of it, why, and how long it took.

    Args:
        is_declared: False for a capability the backend does not declare: the rule is kept when it is refused.
    """

    rule: Rule
    outcome: str = NOT_RUN
    reason: str = ""
    seconds: float = 0.0
    is_declared: bool = True

    @property
    def mark(self) -> str:
        """As short as a matrix needs it."""
        return "refused" if self.outcome == KEPT and not self.is_declared else _MARKS[self.outcome]


@dataclass
class Report:
    """One run of the contract.

    Args:
        backend: its name.
        versions: of everything that took part, by distribution.
        device: kind and number of accelerators.
        machine: system and processor.
        date: of the run, UTC.
        outcomes: in the order of the rules.
        errors: what went wrong beside the rules: ``kit: ...`` where the kit could not be made ready or closed.
    """

    backend: str
    versions: dict[str, str]
    device: str
    machine: str
    date: str
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, backend: str, distribution: str, info: BackendInfo | None, rules: Sequence[Rule]) -> Report:
        """An empty report with everything that is known before a rule has run."""
        target = detect_target({})
        libraries = [library.distribution for library in info.engine_libraries] if info else []
        return cls(
            backend=backend,
            versions={"lmi-core": lmi.__version__, **_versions([distribution, *libraries])},
            device=f"{target.n_devices} x {target.accelerator.value}",
            machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            outcomes=[Outcome(rule, is_declared=_is_declared(rule, info)) for rule in rules],
        )

    def note_error(self, text: str) -> None:
        """Remember an error; the same one is told once, however many rules met it."""
        if text not in self.errors:
            self.errors.append(text)

    def count(self, outcome: str) -> int:
        return sum(each.outcome == outcome for each in self.outcomes)

    @property
    def summary(self) -> str:
        counted = [f"{self.count(each)} {each}" for each in _MARKS if self.count(each)]
        beside = f"; {len(self.errors)} error{'s' * (len(self.errors) > 1)} beside the rules" if self.errors else ""
        return f"{self.backend}: {', '.join(counted)} of {len(self.outcomes)} rules{beside}"

    def terminal(self) -> str:
        """One line a group of rules, then what is broken and why."""
        lines = []
        width = max(len(title) for title in GROUPS.values())
        for letter, title in GROUPS.items():
            cells = [f"{each.rule.id} {each.mark}" for each in self.outcomes if each.rule.group == letter]
            lines += _wrapped(f"{title:<{width}}  ", cells)
        for each in self.outcomes:
            if each.outcome in (BROKEN, KNOWN) and each.reason not in self.errors:
                lines.append(f"{each.rule.id} {each.mark}: {each.rule.title}\n{textwrap.indent(each.reason, '    ')}")
        return "\n".join([*lines, *self.errors, self.summary])

    def json(self) -> str:
        content = asdict(self)
        for entry, each in zip(content["outcomes"], self.outcomes, strict=True):
            entry.pop("rule")
            entry.update({"id": each.rule.id, "title": each.rule.title, "seconds": round(each.seconds, 3)})
        return json.dumps(content, indent=1) + "\n"

    def markdown(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        rows = [
            f"| {each.rule.id} | {each.rule.title} | {each.outcome} | {_cell(each.reason)} |" for each in self.outcomes
        ]
        head = f"# Contract of {self.backend}\n\n{versions}; {self.device}; {self.machine}; {self.date}\n\n"
        table = "\n".join(["| rule | promise | outcome | reason |", "|---|---|---|---|", *rows])
        errors = "".join(f"- {_cell(each)}\n" for each in self.errors)
        return f"{head}{table}\n\n{self.summary}\n" + (f"\n{errors}" if errors else "")

    def write(self, path: Path) -> None:
        """Write JSON or, to a path that ends with .md, Markdown."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.markdown() if path.suffix == ".md" else self.json(), "utf-8")


def _is_declared(rule: Rule, info: BackendInfo | None) -> bool:
    asked = {each.value for each in SAMPLING_CAPABILITIES | {Capability.ADAPTERS}}
    capability = rule.id.removeprefix("K-")
    return info is None or capability not in asked or Capability(capability) in info.capabilities


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            found[name] = "absent"
    return found


def _wrapped(head: str, cells: Sequence[str], width: int = 116) -> list[str]:
    lines, line = [], head
    for cell in cells:
        if len(line) + len(cell) > width:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += f"{cell}  "
    return [*lines, line.rstrip()] if cells else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
