# SPDX-License-Identifier: Apache-2.0
"""Which reasoning may come before an answer that follows a constraint, and how that answer is read."""

from __future__ import annotations

from typing import Any

import pytest

from lmi.api import ArtifactFormat, Constraint, ModelArtifacts, ReasoningMarks, SamplingParams
from lmi.serving.chat_template import load_chat_template
from lmi.serving.chat_writing import Conversation, Speech
from lmi.serving.openai_bodies import ChatBody
from lmi.serving.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.backends.reasoning_models import END_ID, START_ID, add_marks

FORM: dict[str, Any] = {"response_format": {"type": "json_object"}}
CLOSED: dict[str, Any] = {"chat_template_kwargs": {"reasoning": False}}
OPENED: dict[str, Any] = {"chat_template_kwargs": {"reasoning": True}}
FREE = ReasoningMarks(start_id=START_ID, end_id=END_ID)
OPEN = ReasoningMarks(start_id=START_ID, end_id=END_ID, is_open=True)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifacts:
    folder = add_marks(write_tokenizer(tmp_path_factory.mktemp("models") / "m"))
    return ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)


def talk_of(
    artifacts: ModelArtifacts, more: dict[str, Any], *, reasons_first: bool = True, tokenizer: Tokenizer | None = None
) -> Conversation:
    """A conversation whose caller asks for more."""
    tokenizer = tokenizer or load_tokenizer(artifacts)
    speech = Speech(load_chat_template(artifacts), "hermes", "think", tokenizer, lambda: reasons_first)
    return Conversation(speech, ChatBody.model_validate({"messages": [{"role": "user", "content": "x"}], **more}))


def marks_of(talk: Conversation) -> ReasoningMarks | None:
    constraint = talk.constrained(SamplingParams(max_tokens=1)).constraint
    assert constraint is not None
    return constraint.reasoning


def read(talk: Conversation, text: str) -> tuple[str, str]:
    message = talk.message(is_streamed=False)
    message.add(text)
    message.finish()
    whole = message.whole()
    return whole.get("reasoning_content", ""), whole["content"]


@pytest.mark.parametrize(("more", "marks"), [({}, FREE), (OPENED, OPEN), (CLOSED, None)])
def test_the_prompt_says_whether_reasoning_may_come(
    artifacts: ModelArtifacts, more: dict[str, Any], marks: ReasoningMarks | None
) -> None:
    assert marks_of(talk_of(artifacts, {**FORM, **more})) == marks


def test_an_answer_that_follows_nothing_has_no_constraint(artifacts: ModelArtifacts) -> None:
    talk = talk_of(artifacts, OPENED)
    assert talk.constrained(SamplingParams(max_tokens=1)).constraint is None
    assert read(talk, "so</think>{}") == ("so", "{}")


def test_a_guided_parameter_gets_the_marks_too(artifacts: ModelArtifacts) -> None:
    talk = talk_of(artifacts, {**OPENED, "guided_regex": "a+"})
    sampling = SamplingParams(max_tokens=1, constraint=Constraint(kind="regex", source="a+"))
    assert talk.constrained(sampling).constraint == Constraint(kind="regex", source="a+", reasoning=OPEN)


def test_content_that_follows_a_schema_is_read_behind_the_reasoning(artifacts: ModelArtifacts) -> None:
    assert read(talk_of(artifacts, {**FORM, **OPENED}), 'so</think>{"a": 1}') == ("so", '{"a": 1}')
    assert read(talk_of(artifacts, FORM), '<think>so</think>{"a": 1}') == ("so", '{"a": 1}')


@pytest.mark.parametrize("case", ["an engine that cannot", "marks of several tokens"])
def test_where_the_constraint_holds_from_the_first_token_all_is_content(artifacts: ModelArtifacts, case: str) -> None:
    given: dict[str, Any] = {"reasons_first": False} if case == "an engine that cannot" else {}
    if not given:
        given["tokenizer"] = ByteTokenizer()
    talk = talk_of(artifacts, {**FORM, **OPENED}, **given)
    assert marks_of(talk) is None
    assert read(talk, '{"a": "</think>"}') == ("", '{"a": "</think>"}')


def test_a_word_that_the_tokenizer_does_not_know_is_no_mark(artifacts: ModelArtifacts) -> None:
    """An unknown word is one id, too."""

    class Unknowing(ByteTokenizer):
        def encode(self, text: str, *, adds_special: bool = True) -> list[int]:
            return [0]

    assert marks_of(talk_of(artifacts, FORM, tokenizer=Unknowing())) is None
