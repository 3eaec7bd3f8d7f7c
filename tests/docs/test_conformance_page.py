# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md: its commands run, and its tables are whole."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

from lmi.cli.conformance import conformance
from lmi.client import target_of
from lmi.conformance.all_rules import RULES
from lmi.conformance.report import Report
from lmi.conformance.rules import Level, selected
from lmi.conformance.run import OUTCOMES, judge
from lmi.conformance.subject import Subject, Wishes
from tests.docs.pages import Page, code
from tests.limits import SCALE
from tests.sagemaker.faulty_container import running

PAGE = Page("conformance.md")
TITLE = "Judge a container"
LMI = str(Path(sys.executable).with_name("lmi"))


def commands() -> list[list[str]]:
    listings = [text for text in PAGE.listings(TITLE) if text.startswith("lmi ")]
    return [shlex.split(line) for text in listings for line in text.splitlines()]


def call(words: list[str]) -> click.testing.Result:
    return click.testing.CliRunner().invoke(conformance, ["--timeout-scale", str(SCALE), *words])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as found:
        yield found


def test_a_running_server_is_judged_as_the_page_says(url: str) -> None:
    [words] = [each for each in commands() if "--url" in each]
    given = [each.replace("http://localhost:8080", url) for each in words[2:]]
    done = call([*given, "--only", "ping"])
    assert done.exit_code == 0, done.output


def test_a_command_is_judged_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [words] = [each for each in commands() if "--only" in each]
    done = call([each.replace("lmi serve", f"{LMI} serve") for each in words[2:]])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "judged" / "report.json").read_text())["rules"]
    assert {each["outcome"] for each in found} == {"pass"}


def test_every_other_flag_that_is_called_exists() -> None:
    known = {flag for option in conformance.params for flag in option.opts}
    called = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.text))
    assert called - {"--rm", "--network", "--model", "--enable-lora"} <= known  # of the programs that are judged


def test_every_flag_is_in_the_table_and_no_other() -> None:
    listed = {flag for row in PAGE.rows(TITLE) for flag in code(row[0])}
    assert listed == {flag for option in conformance.params for flag in option.opts}


def test_the_report_that_is_shown_is_the_one_that_is_printed() -> None:
    [shown] = [text for text in PAGE.listings(TITLE) if text.startswith("invocations:")]
    rules = selected(RULES, ["invocations.refuses-broken-json", "invocations.refuses-arrays"])
    with running("invocations.refuses-arrays") as url, Subject(Wishes(target=target_of(url))) as subject:
        told = Report(url, judge(subject, rules, lambda _: None)).terminal()
    for line in shown.splitlines()[:3]:
        assert line in told
    assert re.search(r"was answered 500 after .*; expected 400 or 422", " ".join(told.split()))
    assert "        seen: POST /invocations: 500 after " in told


def test_every_outcome_and_level_is_explained() -> None:
    assert [row[0] for row in PAGE.rows("What comes of a rule")] == list(OUTCOMES)
    assert all(f"`{level.value}`" in PAGE.section("What comes of a rule") for level in Level)


def test_every_rule_is_in_the_table() -> None:
    assert {code(row[0])[0] for row in PAGE.rows("The rules")} == {each.id for each in RULES}
