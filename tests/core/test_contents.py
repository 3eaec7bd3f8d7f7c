# SPDX-License-Identifier: Apache-2.0
"""Bodies that are not JSON, for models that take no other: each becomes the JSON that says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmi.api import LmiError, RequestError, Task
from lmi.serving.contents import Lines, as_json, data_of, is_json
from lmi.serving.task_bodies import checked_body


@pytest.mark.parametrize(
    ("body", "content_type", "data"),
    [
        (b'{"inputs": "a"}', "application/json", {"inputs": "a"}),
        (b"anything", "text/plain", {"inputs": "anything"}),
        (b"inputs\na\nb\n", "text/csv", {"inputs": ["a", "b"]}),
        (b"inputs=a&normalize=false", "application/x-www-form-urlencoded", {"inputs": "a", "normalize": False}),
    ],
)
def test_a_body_becomes_the_json_that_says_the_same(body: bytes, content_type: str, data: Any) -> None:
    assert json.loads(as_json(body, content_type)) == data


def test_json_stays_as_it_is() -> None:
    body = b'{"inputs" :  "a"}'
    assert as_json(body, "application/json; charset=utf-8") is body


def test_questions_and_contexts_of_a_table_are_a_request_for_answers() -> None:
    body = as_json(b"question,context,id\nWho?,Ann was here.,1\nWhere?,In Rome.,2\n", "text/csv")
    asked = json.loads(checked_body(body, model="m", task=Task.QUESTION_ANSWERING))
    assert asked["inputs"] == [
        {"question": "Who?", "context": "Ann was here."},
        {"question": "Where?", "context": "In Rome."},
    ]


def test_a_request_a_line_is_for_models_that_generate() -> None:
    with pytest.raises(RequestError, match="takes no lines of JSON"):
        as_json(b'{"inputs": "a"}\n', "application/jsonlines")


def test_a_line_that_is_no_json_is_an_error_in_its_place() -> None:
    lines = data_of(b'{"inputs": "a"}\r\n\r\n{\n', "application/x-ndjson")
    assert isinstance(lines, Lines)
    assert lines[0] == {"inputs": "a"}
    assert isinstance(lines[1], LmiError)
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("content_type", "is_so"),
    [("", True), ("application/ld+json", True), ("text/json", False), ("image/svg+xml", False)],
)
def test_what_counts_as_json(content_type: str, is_so: bool) -> None:
    assert is_json(content_type) is is_so
