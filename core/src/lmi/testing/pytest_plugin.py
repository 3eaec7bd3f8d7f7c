# SPDX-License-Identifier: Apache-2.0
"""Pytest's side of the contract: choose rules, allow no skips, write the report. Idle in runs without a contract."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.testing.rules import NotDeclared, Rule, selects

_MOST_LINES, _LONGEST = 8, 1500
"""Of a reason in the report."""


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


def pytest_configure(config: pytest.Config) -> None:
    wanted = _wanted(config)
    if wanted:
        from lmi.testing.session import unknown_rules

        problems = unknown_rules(wanted, "--lmi-rules")
        if problems:
            raise pytest.UsageError("\n".join(map(str, problems)))


@pytest.fixture(scope="class")
def lmi_kit(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The case of a BackendContract made ready, once for the class. Its rules know it as ``kit``."""
    from lmi.testing.kit import Kit

    kit = Kit(request.cls.case)
    yield kit
    kit.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = _wanted(config)
    if not wanted:
        return
    dropped = [item for item in items if (rule := _rule(item)) is not None and not selects(wanted, rule.id)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


_NOT_DECLARED: pytest.StashKey[str] = pytest.StashKey()
"""Why the rule of an item has nothing to say of this backend."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    if _rule(pyfuncitem) is None:
        return (yield)
    try:
        return (yield)
    except NotDeclared as reason:
        pyfuncitem.stash[_NOT_DECLARED] = str(reason)
        return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not _is_contract(getattr(item, "cls", None)):
        return report
    rule = _rule(item)
    said = _said(call)
    if rule is not None and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        said = f"rule {rule.id} was skipped; there are no skips: a rule is kept, or it is a known failure"
        report.longrepr = said
    elif report.failed:
        said = said or str(report.longrepr)[:_LONGEST]
        if said.startswith("[XPASS(strict)]"):
            said = "the rule is kept now: take it out of known_failures"
        if report.when != "call":
            said = f"kit: {said}"
        if report.when != "call" or rule is None:
            _report(item).note_error(said)
    if rule is not None:
        _note(item, rule, report, said)
    return report


def _note(item: pytest.Item, rule: Rule, report: pytest.TestReport, said: str) -> None:
    from lmi.testing.report import BROKEN, KEPT, KNOWN, NOT_DECLARED

    outcome = next(each for each in _report(item).outcomes if each.rule.id == rule.id)
    outcome.seconds += report.duration
    if report.failed and report.when != "teardown":  # a kit that does not close is no fault of the last rule
        outcome.outcome, outcome.reason = BROKEN, said
    elif report.when == "call" and hasattr(report, "wasxfail"):
        outcome.outcome, outcome.reason = KNOWN, f"{report.wasxfail} ({said})"
    elif report.when == "call" and report.passed:
        reason = item.stash.get(_NOT_DECLARED, None)
        outcome.outcome, outcome.reason = (KEPT, "") if reason is None else (NOT_DECLARED, reason)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # a process of pytest-xdist, which has seen some of the rules alone
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
    n_processes = getattr(config.option, "numprocesses", None)
    if n_processes and not reports and (config.getoption("--lmi-report") or _wanted(config)):
        terminalreporter.section("contract")
        terminalreporter.write_line(
            f"The rules ran in {n_processes} worker processes, so there is no report: run them without -n."
        )


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


def _wanted(config: pytest.Config) -> list[str]:
    """The ids and groups that are asked for; none means all."""
    return [each.strip() for each in (config.getoption("--lmi-rules") or "").split(",") if each.strip()]


def _is_contract(found: object) -> bool:
    """Whether this is somebody's BackendContract; told without the import, which would slow every run of pytest."""
    module = sys.modules.get("lmi.testing.contract")
    return module is not None and isinstance(found, type) and issubclass(found, module.BackendContract)


def _rule(item: pytest.Item) -> Rule | None:
    found = getattr(getattr(item, "function", None), "rule", None)
    return found if isinstance(found, Rule) else None


def _said(call: pytest.CallInfo[None]) -> str:
    """What a rule complains about, in a few lines; the line of code where it gives no reason."""
    if call.excinfo is None:
        return ""
    text = str(call.excinfo.value).partition("\nassert ")[0]  # pytest's own words follow
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][:_MOST_LINES]
    said = "\n".join(lines)[:_LONGEST]
    return said or f"{call.excinfo.typename}: {str(call.excinfo.traceback[-1].statement).strip()}"
