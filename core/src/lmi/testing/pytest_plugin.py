# SPDX-License-Identifier: Apache-2.0
"""Pytest's side of the contract: choose rules, allow no skips, write the report. Idle in runs without a contract."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.testing.rules import Rule, selects

_SHORTEST = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lmi", "the contract of LMI backends")
    group.addoption(
        "--lmi-rules", metavar="IDS", help="run these rules and groups of the contract alone (P,C,A or G6,K-seed)"
    )
    group.addoption(
        "--lmi-report",
        metavar="PATH",
        action="append",
        default=[],
        help="write the contract's report: JSON, or Markdown to a path that ends with .md; may be given again",
    )


@pytest.fixture(scope="class")
def kit(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The case of a BackendContract made ready, once for the class."""
    from lmi.testing.kit import Kit

    kit = Kit(request.cls.case)
    yield kit
    kit.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [each.strip() for each in (config.getoption("--lmi-rules") or "").split(",") if each.strip()]
    if not wanted:
        return
    dropped = [item for item in items if (rule := _rule(item)) is not None and not selects(wanted, rule.id)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    rule = _rule(item)
    if rule is None:
        return report
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"rule {rule.id} was skipped; there are no skips: a rule is kept, or it is a known failure"
    _note(item, rule, report, call)
    return report


def _note(item: pytest.Item, rule: Rule, report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
    from lmi.testing.report import BROKEN, KEPT, KNOWN

    outcome = next(each for each in _report(item).outcomes if each.rule.id == rule.id)
    outcome.seconds += report.duration
    if report.failed:
        outcome.outcome, outcome.reason = BROKEN, _said(call) or str(report.longrepr)[:_SHORTEST]
    elif report.when == "call" and hasattr(report, "wasxfail"):
        outcome.outcome, outcome.reason = KNOWN, f"{report.wasxfail} ({_said(call)})"
    elif report.when == "call" and report.passed:
        outcome.outcome = KEPT


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = config.stash.get(_REPORTS, {})
    for report in reports.values():
        terminalreporter.section(f"contract of {report.backend}")
        terminalreporter.write_line(report.terminal())
    for text in config.getoption("--lmi-report"):
        for report in reports.values():
            path = Path(text)
            path = path if len(reports) == 1 else path.with_name(f"{path.stem}-{report.backend}{path.suffix}")
            report.write(path)
            terminalreporter.write_line(f"report: {path}")


_REPORTS: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def _report(item: pytest.Item) -> Any:
    """The report of the contract class that an item belongs to."""
    from lmi.plugins import Plugins
    from lmi.testing.contract import RULES
    from lmi.testing.report import Report

    reports = item.config.stash.setdefault(_REPORTS, {})
    owner = item.parent.nodeid if item.parent is not None else ""
    if owner not in reports:
        name = item.cls.case.backend  # type: ignore[attr-defined]
        records = [each for each in Plugins.discover({}, only_backend=name).records if each.name == name]
        distribution, info = (records[0].distribution, records[0].info) if records else (name, None)
        rules: list[Any] = [test.rule for _, test in RULES.values()]  # type: ignore[attr-defined]
        reports[owner] = Report.begin(name, distribution, info, rules)
    return reports[owner]


def _rule(item: pytest.Item) -> Rule | None:
    found = getattr(getattr(item, "function", None), "rule", None)
    return found if isinstance(found, Rule) else None


def _said(call: pytest.CallInfo[None]) -> str:
    """The first line of what a rule complains about."""
    if call.excinfo is None:
        return ""
    return str(call.excinfo.value).partition("\n")[0]
