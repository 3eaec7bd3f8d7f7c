# SPDX-License-Identifier: Apache-2.0
"""docs/tasks.md: its commands work on a real server, its tables have every name and parameter."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import lmi.api
from lmi.api import TASK_NAMES, Task
from lmi.scheduling.answering import engine_of
from lmi.serving.task_bodies import INVOCATIONS
from tests.docs.pages import Page, code
from tests.servers import serve

PAGE = Page("tasks.md")
SECTIONS = {
    Task.TOKEN_CLASSIFICATION: "Labels of words",
    Task.FILL_MASK: "Words for masks",
    Task.QUESTION_ANSWERING: "Answers to questions",
}


def listings(title: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.section(title), re.MULTILINE | re.DOTALL)


def form(answer: Any) -> Any:
    """An answer without what depends on the weights."""
    if isinstance(answer, list):
        return [form(answer[0])]
    return {key: type(value) for key, value in answer.items()}


@pytest.mark.parametrize(
    "task", [each if each == "fill-mask" else pytest.param(each, marks=pytest.mark.long) for each in SECTIONS]
)
def test_the_commands_of_the_page_are_answered_in_the_form_that_it_shows(task: Task, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.backends.task_models import write_task_model

    folder = write_task_model(tmp_path / "model", task.value)
    (command,), (shown,) = listings(SECTIONS[task], "bash"), listings(SECTIONS[task], "json")
    words = shlex.split(command.replace("\\\n", " "))
    with serve(str(folder), "-o", "rolling_batch=hf", "-o", "dtype=fp32", is_ready=False) as server:
        server.wait_until_ready(240)
        response = server.post(words[words.index("-d") + 1].encode(), "/invocations")
    assert response.status_code == 200, response.text
    assert form(response.json()) == form(json.loads(shown))


@pytest.mark.parametrize("task", list(SECTIONS))
def test_every_parameter_is_on_the_page_with_its_default_and_no_other(task: Task) -> None:
    fields = INVOCATIONS[task].parameter_type.model_fields
    rows = {code(name)[0]: default for name, default, _ in PAGE.rows(SECTIONS[task])}
    assert rows.keys() == fields.keys()
    for name, default in rows.items():
        given = fields[name].default
        shown = json.dumps(given) if not isinstance(given, str) else given
        assert given is None or default.strip("`") == shown, name


def test_every_spelling_of_a_task_is_on_the_page_and_no_other() -> None:
    told = {name: does for _, names, does in PAGE.rows("Words, masks and questions") for name in code(names)}
    assert told == {name: task.does for name, task in TASK_NAMES.items() if task.takes_whole_requests}


def test_the_models_that_deepspeed_splits_are_as_many_as_it_is_known_to() -> None:
    from lmi_deepspeed.tasks import SPLIT_TYPES

    (told,) = re.findall(r"answers of one process for (.*?);", PAGE.text, re.DOTALL)
    names = (
        told.replace("\n", " ").replace(" (also XL)", ", XLM-RoBERTa-XL").replace(" and v3", "").replace(" and ", ", ")
    )
    known = {re.sub(r"[^a-z0-9]", "", each.lower()) for each in names.split(", ")}
    assert known == {each.replace("-", "") for each in SPLIT_TYPES}


def test_the_answerer_for_authors_gives_labels() -> None:
    page = Page("write-a-backend.md")
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", page.section("Models that write no text"), re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {"Any": Any, **vars(lmi.api)}
    exec(compile(program, "write-a-backend.md", "exec"), names)

    async def ask() -> Any:
        engine: Any = engine_of(names["AcmeLabels"]())
        try:
            return await engine.classify([[1, 1, 2, 3], [2]])
        finally:
            await engine.close()

    assert asyncio.run(ask()) == [[0.5, 0.25], [0.0, 1.0]]
