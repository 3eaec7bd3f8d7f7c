# SPDX-License-Identifier: Apache-2.0
"""A model's own hooks that no request would reach, because the model generates no text."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lmi.api import Severity, Task
from lmi.cli.check import check
from lmi.custom.model_file import uncalled_problems
from tests.core.distributions import Distributions
from tests.core.scripts import FILTER, HANDLE, Folder

VECTORS = Path(__file__).parents[1] / "wire" / "vectors_backend.py"
WORKER_HOOK = FILTER.replace("lmi_filter_text(text)", "lmi_generate_batch(engine, requests)")
ENGINE_HOOK = FILTER.replace("lmi_filter_text(text)", "lmi_load_engine(artifacts, config, progress)")
ROUTES = FILTER.replace("lmi_filter_text(text)", "lmi_register_routes(app, context)")
FORMATTER = """
from djl_python.output_formatter import output_formatter

@output_formatter
def write(request_output): ...
"""


@pytest.mark.parametrize(
    ("code", "uncalled"),
    [
        (FILTER, "lmi_filter_text"),
        (WORKER_HOOK, "lmi_generate_batch"),
        (FORMATTER, "the output formatter write"),
        (FILTER + FORMATTER + ROUTES, "lmi_filter_text, the output formatter write"),
        (ROUTES, ""),
        (ENGINE_HOOK, ""),
        (HANDLE, ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("task", Task)
def test_what_is_for_generated_text_is_an_error_where_none_is_generated(
    tmp_path: Path, code: str | None, uncalled: str, task: Task
) -> None:
    found = uncalled_problems(Folder(tmp_path)(code).file, task)
    if task is Task.GENERATE or not uncalled:
        assert found == []
        return
    [problem] = found
    assert (problem.code, problem.severity) == ("script.not-called", Severity.ERROR)
    assert problem.message == (f"model.py has {uncalled}: called for generated text, and this model {task.does}")
    assert problem.path == str(tmp_path / "model.py")


@pytest.mark.parametrize(("task", "exit_code"), [("text-embedding", 1), ("text-classification", 1), ("", 0)])
def test_the_check_names_a_guardrail_that_no_request_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, exit_code: int
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    Distributions(site).install("lmi-vectors", "lmi.backends", "vectors", VECTORS.read_text())
    monkeypatch.syspath_prepend(site)
    folder = tmp_path / "served"
    folder.mkdir()
    asked = f"option.task={task}\n" if task else ""
    (folder / "serving.properties").write_text(f"option.rolling_batch=vectors\n{asked}")
    (folder / "model.py").write_text(FILTER.replace("lmi_filter_text(text)", "lmi_filter_request(request)"))
    done = CliRunner().invoke(check, [str(folder)], catch_exceptions=False)
    assert done.exit_code == exit_code, done.output
    assert ("error: [script.not-called] model.py has lmi_filter_request: " in done.output) == bool(exit_code)
