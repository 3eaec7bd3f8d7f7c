# SPDX-License-Identifier: Apache-2.0
"""The outcome of a judgement, for people and for programs."""

from __future__ import annotations

import datetime
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmi
from lmi.conformance.rules import GROUPS, Level, Rule
from lmi.conformance.run import FAIL, NOT_APPLICABLE, OUTCOMES, PASS, SKIPPED, Outcome

_WIDTH = 116
_MARKS = {PASS: "pass", FAIL: "FAIL", NOT_APPLICABLE: "n/a ", SKIPPED: "skip"}


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")


@dataclass
class Report:
    """One run.

    Args:
        subject: the URL or the command.
        outcomes: in the order in which they were judged.
        date: of the run, UTC.
    """

    subject: str
    outcomes: Sequence[Outcome]
    date: str = field(default_factory=_today)

    @property
    def n_broken_musts(self) -> int:
        return sum(each.outcome == FAIL and each.rule.level is Level.MUST for each in self.outcomes)

    @property
    def summary(self) -> str:
        """One line."""
        counts = {kind: sum(each.outcome == kind for each in self.outcomes) for kind in OUTCOMES}
        counted = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
        failed = f"; of the failures {self.n_broken_musts} of what it must do" if counts[FAIL] else ""
        return f"{len(self.outcomes)} rules: {counted}{failed}"

    def terminal(self) -> str:
        """By groups: a line a rule that was judged, evidence of failures, and the others by the reason."""
        lines = [self.subject]
        for group, outcomes in self._by_group():
            lines += ["", f"{group}: {GROUPS[group]}"]
            for each in outcomes:
                if each.outcome not in (PASS, FAIL):
                    continue
                lines.append(f"  {_MARKS[each.outcome]}  {each.rule.level.value:<6}  {each.rule.id}: {each.rule.title}")
                lines += _indented(each.reason)
                if each.outcome == FAIL:
                    lines += [line for shown in each.evidence[-2:] for line in _indented(_evidence_line(shown))]
            lines += _not_judged(outcomes)
        return "\n".join([*lines, "", self.summary])

    def json(self) -> str:
        """Everything."""
        content = {
            "subject": self.subject,
            "date": self.date,
            "lmi": lmi.__version__,
            "summary": self.summary,
            "rules": [_as_fields(each) for each in self.outcomes],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """A table."""
        head = f"# SageMaker's container contract: {_cell(self.subject)}\n\nlmi-core {lmi.__version__}, {self.date}\n\n"
        rows = ["| rule | level | promise | outcome | reason |", "|---|---|---|---|---|"]
        for _, outcomes in self._by_group():
            rows += [
                f"| `{each.rule.id}` | {each.rule.level.value} | {_cell(each.rule.title)} | {each.outcome} | "
                f"{_cell(each.reason)} |"
                for each in outcomes
            ]
        return head + "\n".join(rows) + f"\n\n{self.summary}\n"

    def write_json(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.json(), "utf-8")

    def write_markdown(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.markdown(), "utf-8")

    def _by_group(self) -> list[tuple[str, list[Outcome]]]:
        found = [(group, [each for each in self.outcomes if each.rule.group == group]) for group in GROUPS]
        return [(group, outcomes) for group, outcomes in found if outcomes]


def rules_table(rules: Sequence[Rule]) -> str:
    """Markdown: every rule, how it is judged, and who says so."""
    rows = ["| rule | level | promise | how it is judged | source |", "|---|---|---|---|---|"]
    for each in rules:
        source = f"{each.source.basis.value}: " + (
            f"[{each.source.text}]({each.source.url})" if each.source.url else each.source.text
        )
        rows.append(
            f"| `{each.id}` | {each.level.value} | {_cell(each.title)} | {_cell(each.judged)} | {_cell(source)} |"
        )
    return "\n".join(rows)


def rules_text(rules: Sequence[Rule]) -> str:
    """For the terminal: every rule, how it is judged, and who says so."""
    lines = []
    for each in rules:
        lines.append(f"{each.id} ({each.level.value}): {each.title}")
        lines += _indented(each.judged) + _indented(f"{each.source} {each.source.url}".rstrip())
    return "\n".join(lines)


def _as_fields(each: Outcome) -> dict[str, Any]:
    rule = each.rule
    return {
        "id": rule.id, "title": rule.title, "level": rule.level.value, "basis": rule.source.basis.value,
        "source": rule.source.text, "url": rule.source.url, "judged": rule.judged,
        "outcome": each.outcome, "reason": each.reason, "seconds": round(each.seconds, 3), "evidence": each.evidence,
    }  # fmt: skip


def _evidence_line(shown: dict[str, Any]) -> str:
    if "note" in shown:
        return f"seen: {shown['note']}"
    headers = {name: value for name, value in shown.get("headers", {}).items() if name != "date"}
    outcome = shown.get("failure") or f"{shown.get('status')} after {shown.get('seconds')} s, headers {headers}"
    return f"seen: {shown['request']}: {outcome}"


def _not_judged(outcomes: Sequence[Outcome]) -> list[str]:
    """Rules that were not judged, by the reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for each in outcomes:
        if each.outcome in (NOT_APPLICABLE, SKIPPED):
            names.setdefault((each.outcome, each.reason), []).append(each.rule.id.partition(".")[2])
    lines = []
    for (outcome, reason), found in names.items():
        lines.append(f"  {_MARKS[outcome]}  {reason}:")
        lines += _indented(", ".join(found))
    return lines


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
