# SPDX-License-Identifier: Apache-2.0
"""Bodies for words' labels, masks and questions: the one form that engines get, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts, RequestError, Task
from lmi.serving.task_bodies import INVOCATIONS, checked_body, example_body

WORDS, MASKS, QUESTIONS = Task.TOKEN_CLASSIFICATION, Task.FILL_MASK, Task.QUESTION_ANSWERING
QUESTION = {"question": "Who?", "context": "Ada."}


def read(task: Task, body: Any) -> Any:
    return json.loads(checked_body(json.dumps(body).encode(), model="m", task=task))


def test_every_task_with_whole_requests_has_a_body() -> None:
    assert set(INVOCATIONS) == {task for task in Task if task.takes_whole_requests}


@pytest.mark.parametrize(
    ("task", "body", "parameters"),
    [
        (WORDS, {"inputs": "a"}, {"aggregation_strategy": "none", "ignore_labels": ["O"], "stride": None}),
        (
            WORDS, {"inputs": ["a"], "parameters": {"aggregation_strategy": "SIMPLE", "stride": 8}},
            {"aggregation_strategy": "simple", "ignore_labels": ["O"], "stride": 8},
        ),
        (MASKS, {"inputs": ["a", "b"]}, {"top_k": 5, "targets": None}),
        (MASKS, {"inputs": "a", "targets": "x", "parameters": {"top_k": 1}}, {"top_k": 1, "targets": ["x"]}),
        (
            QUESTIONS, {"inputs": QUESTION, "parameters": {"doc_stride": 0}},
            {
                "top_k": 1, "doc_stride": 0, "max_answer_len": 15, "max_seq_len": None, "max_question_len": 64,
                "handle_impossible_answer": False, "align_to_words": True,
            },
        ),
    ],
)  # fmt: skip
def test_a_body_comes_with_its_inputs_as_they_were_and_every_parameter(
    task: Task, body: dict[str, Any], parameters: dict[str, Any]
) -> None:
    assert read(task, body) == {"inputs": body["inputs"], "parameters": parameters}


@pytest.mark.parametrize(
    ("task", "body", "said"),
    [
        (WORDS, {"inputs": "a", "parameters": {"stride": 4}}, "stride=4 reads a long text in windows"),
        (WORDS, {"inputs": "a", "parameters": {"aggregation_strategy": "most"}}, "'none', 'simple', 'first'"),
        (WORDS, {"inputs": "a", "parameters": {"zzz": 4}}, "parameters.zzz is not a parameter. Known: aggreg"),
        (WORDS, {"inputs": 1}, "inputs must be a text or a list of them"),
        (WORDS, {"inputs": []}, "inputs is an empty list"),
        (WORDS, {}, "inputs is missing"),
        (WORDS, {"inputs": "a", "is_single": True}, "is_single is not a parameter"),
        (MASKS, {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k=0: input should be greater"),
        (MASKS, {"inputs": "a", "parameters": {"targets": []}}, "parameters.targets=[]"),
        (MASKS, {"inputs": "a", "parameters": {"target": "x"}}, "Did you mean 'targets'?"),
        (QUESTIONS, {"inputs": "Who?"}, "inputs must be an object with a question and a context"),
        (QUESTIONS, {"inputs": {"question": "Who?"}}, "inputs.context must be a text"),
        (QUESTIONS, {"inputs": [QUESTION, {"question": " ", "context": "a"}]}, "inputs[1].question must be a text"),
        (QUESTIONS, {"inputs": {**QUESTION, "text": "a"}}, "inputs.text is not known; a question has question and"),
        (QUESTIONS, {"inputs": []}, "inputs is an empty list"),
        (QUESTIONS, {"inputs": [QUESTION] * 2049}, "inputs has 2049 entries; a request takes 2048"),
        (QUESTIONS, [QUESTION], "the body must be a JSON object"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(task: Task, body: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(task, body)
    assert (caught.value.code, said in str(caught.value)) == ("request.invalid", True), str(caught.value)


def test_parameters_of_generation_are_said_to_be_for_other_models() -> None:
    with pytest.raises(RequestError, match=r"request\.wrong-task: max_new_tokens: .* model 'm' fills masks"):
        read(MASKS, {"inputs": "a", "parameters": {"max_new_tokens": 3}})


def test_a_body_that_is_no_json_is_the_callers_fault() -> None:
    with pytest.raises(RequestError, match=r"request\.malformed-json"):
        checked_body(b"{", model="m", task=MASKS)


@pytest.mark.parametrize("task", list(INVOCATIONS))
@pytest.mark.parametrize("mask", ["<mask>", {"content": "<mask>"}])
def test_the_example_for_a_person_is_a_body_that_is_taken(task: Task, mask: Any) -> None:
    documents = {"tokenizer_config.json": {"mask_token": mask}}
    body = example_body(task, ModelArtifacts(format=ArtifactFormat.PRETRAINED, documents=documents))
    assert read(task, body)["inputs"] == body["inputs"]
    assert ("<mask>" in json.dumps(body)) == (task is MASKS)
