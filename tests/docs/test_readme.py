# SPDX-License-Identifier: Apache-2.0
"""What the pages say must be so."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from examples import demo_model
from lmi.cli.main import COMMANDS
from lmi.cli.serve import serve as serve_command
from lmi.serving.bodies import decoded, validated
from lmi.serving.invocation import Invocation
from tests.servers import ServerProcess, serve

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "core/*.md", "plugins/*/*.md", "docs/**/*.md", "examples/*.md")
    for page in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[str]:
    """The listings of a page, in order."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def curl_bodies() -> list[str]:
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks(README) if block.startswith("curl")]
    return [command[command.index("-d") + 1] for command in commands]


def shown_answers() -> list[list[dict[str, Any]]]:
    """The listings that follow the curl lines: one JSON value a line."""
    listings = [block for block in blocks(README) if block.startswith("{")]
    return [[json.loads(line) for line in listing.splitlines()] for listing in listings]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(named) - set(targets)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_folder_that_is_to_be_installed_is_a_project_with_these_extras(page: Path) -> None:
    installed = re.findall(r"pip install ([^\n`#]*)", page.read_text(encoding="utf-8"))
    for folder, extras in re.findall(r"\./(core|plugins/\w+)(?:\[([\w,]+)\])?", " ".join(installed)):
        project = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
        offered = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
        assert {each for each in extras.split(",") if each} <= set(offered)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_lmi_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^\$ |^)lmi ([a-z-]+)\b", text, re.MULTILINE))
    assert sorted(named - set(COMMANDS)) == []


def test_every_curl_body_of_the_readme_is_a_valid_request() -> None:
    bodies = curl_bodies()
    assert len(bodies) == 2
    for body in bodies:
        assert validated(Invocation, decoded(body.encode())).inputs


def test_every_flag_of_lmi_serve_in_the_readme_exists() -> None:
    flags = {flag for line in re.findall(r"lmi serve ([^\n`]*)", README) for flag in re.findall(r"-+[a-z]+", line)}
    known = {flag for parameter in serve_command.params for flag in parameter.opts}
    assert {"--port", "-o"} <= flags
    assert sorted(flag for flag in flags if flag.startswith("-") and flag not in known) == []


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    folder = demo_model.models_folder() / demo_model.NAME
    if not demo_model.is_made(folder):
        pytest.skip("the demo model is not there; `make demo-model` makes it")
    if find_spec("torch") is None:
        pytest.skip("the engine of lmi-hf is not installed")
    with serve(str(folder)) as process:
        yield process


@pytest.mark.model
def test_the_answers_in_the_readme_are_those_of_the_demo_model(server: ServerProcess) -> None:
    for body, expected in zip(curl_bodies(), shown_answers(), strict=True):
        lines = [json.loads(line) for line in server.post(body.encode()).text.splitlines()]
        assert [without_log_prob(line) for line in lines] == [without_log_prob(line) for line in expected]


def without_log_prob(line: dict[str, Any]) -> dict[str, Any]:
    """Log probabilities differ in their last digits from one CPU to the next."""
    if "token" not in line:
        return line
    assert line["token"]["log_prob"] <= 0
    return {**line, "token": {key: value for key, value in line["token"].items() if key != "log_prob"}}
