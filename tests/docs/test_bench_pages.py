# SPDX-License-Identifier: Apache-2.0
"""docs/bench.md and docs/generate-offline.md: their commands run, and their tables are whole."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.bench.advice import _RULES
from lmi.bench.report import head_lines, row_line
from lmi.cli.bench import bench
from lmi.cli.generate import generate
from tests.core.test_bench import level
from tests.docs.pages import Page, code
from tests.limits import limit_s
from tests.sagemaker.emulators import QUICK, emulator
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo

BENCH, GENERATE = Page("bench.md"), Page("generate-offline.md")
LMI = str(Path(sys.executable).with_name("lmi"))
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def commands(page: Page) -> list[str]:
    listings = re.findall(r"^```\n(.*?)^```$", page.text, re.MULTILINE | re.DOTALL)
    return [line for listing in listings for line in listing.splitlines() if line.startswith("lmi ")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    limit = limit_s(120)
    return subprocess.run([LMI, *command], cwd=folder, capture_output=True, text=True, timeout=limit, check=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo(max_rolling_batch_size=8, chat_template=TEMPLATE) as process:
        yield process


@pytest.fixture(scope="module")
def endpoint(server: ServerProcess) -> Iterator[ServerProcess]:
    with emulator("--url", server.url, "--endpoint", "my-endpoint", *QUICK, is_ready=False) as local:
        yield local.in_service("my-endpoint")


@pytest.mark.parametrize("command", commands(BENCH))
def test_the_commands_that_measure_run(
    server: ServerProcess, endpoint: ServerProcess, tmp_path: Path, command: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    here = command.replace("http://localhost:8080", server.url).replace("http://127.0.0.1:8081", endpoint.url)
    _, *words = shlex.split(here)
    done = run(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nnext: " in done.stdout
    if "--report" in words:
        assert (tmp_path / words[words.index("--report") + 1] / "report.html").is_file()


def test_the_table_that_is_shown_is_the_one_that_is_printed() -> None:
    shown = next(text for text in BENCH.listings("Measure a server") if "at once" in text).splitlines()
    assert shown[:2] == head_lines()
    assert len(shown[2]) == len(row_line(level(1, 158.9)))
    assert shown[-1].startswith("next: option.")


def test_every_flag_of_lmi_bench_is_in_the_table_and_no_other() -> None:
    listed = {flag for row in BENCH.rows("Measure a server") for flag in code(row[0])}
    known = {flag for option in bench.params for flag in (*option.opts, *option.secondary_opts) if flag[:2] == "--"}
    assert listed == known


def test_every_flag_of_lmi_generate_on_its_page_exists() -> None:
    known = {flag for option in generate.params for flag in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", GENERATE.text))
    assert {"--output", "--retry-failed"} <= named <= known


def test_every_rule_of_the_advice_has_a_row() -> None:
    assert len(BENCH.rows("What it advises")) == len(_RULES)


def test_the_file_of_prompts_is_answered_as_the_page_says(tmp_path: Path) -> None:
    prompts, answers = GENERATE.listings("Answer a file of prompts", "json")
    (tmp_path / "prompts.jsonl").write_text(prompts)
    [command] = commands(GENERATE)
    model, options = "/path/to/model", "-o option.dtype=bf16"
    assert model in command
    assert options in command
    echo = f"-o rolling_batch=echo -o {shlex.quote(f'chat_template={TEMPLATE}')}"
    done = run(shlex.split(command.replace(model, "").replace(options, echo))[1:], tmp_path)
    assert done.returncode == 1, done.stderr  # the last line asks for no tokens
    found = {each["line"]: each for each in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())}
    assert [set(found[line]) - {"line", "digest", "id"} for line in (1, 2, 3, 4)] == [
        {"answer"}, {"answer"}, {"answer"}, {"error"}
    ]  # fmt: skip
    assert set(found[4]["error"]) == {"code", "message", "status"}
    shown = json.loads(answers)
    assert list(shown) == list(found[1])
    assert (shown["line"], shown["id"], list(shown["answer"])) == (1, "a", list(found[1]["answer"]))
    assert len(shown["digest"]) == len(found[1]["digest"])
