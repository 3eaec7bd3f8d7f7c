# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests for words' labels, masks and questions, which engines get whole, in one checked form.

Source: HuggingFace's inference API; names and defaults are those of transformers' pipelines.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, field_validator, model_validator

from lmi.api import ModelArtifacts, Task
from lmi.serving.bodies import Part, complete, decoded
from lmi.serving.vector_bodies import N_INPUTS, Invocation, read_body

_QUESTION_KEYS = ("question", "context")


class TokenParameters(Part):
    """``parameters`` of a request for the labels of words."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: Annotated[list[str], Field(fail_fast=True)] = ["O"]
    stride: int | None = Field(None, ge=0)

    @field_validator("aggregation_strategy", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_join(self) -> TokenParameters:
        if self.stride is not None and self.aggregation_strategy == "none":
            raise complete(
                f"stride={self.stride} reads a long text in windows, whose words are joined by an aggregation_strategy "
                "other than none"
            )
        return self


class MaskParameters(Part):
    """``parameters`` of a request to fill masks."""

    top_k: int = Field(5, ge=1)
    targets: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None

    @field_validator("targets", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class QuestionParameters(Part):
    """``parameters`` of a question about a text."""

    top_k: int = Field(1, ge=1)
    doc_stride: int | None = Field(None, ge=0)
    max_answer_len: int = Field(15, ge=1)
    max_seq_len: int | None = Field(None, ge=1)
    max_question_len: int = Field(64, ge=1)
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class TokenInvocation(Invocation):
    """The body of a request for the labels of words."""

    parameter_type = TokenParameters
    parameters: TokenParameters = TokenParameters()


class MaskInvocation(Invocation):
    """The body of a request to fill masks."""

    parameter_type = MaskParameters
    parameters: MaskParameters = MaskParameters()


class QuestionInvocation(Invocation):
    """The body of a question about a text, or of several."""

    parameter_type = QuestionParameters
    parameters: QuestionParameters = QuestionParameters()

    @classmethod
    def listed(cls, inputs: Any) -> tuple[list[Any], bool]:
        if not isinstance(inputs, list):
            return [_question("inputs", inputs)], True
        if not inputs:
            raise complete("inputs is an empty list; give at least one question")
        if len(inputs) > N_INPUTS:
            raise complete(f"inputs has {len(inputs)} entries; a request takes {N_INPUTS}")
        return [_question(f"inputs[{index}]", each) for index, each in enumerate(inputs)], False


INVOCATIONS: dict[Task, type[Invocation]] = {
    Task.TOKEN_CLASSIFICATION: TokenInvocation,
    Task.FILL_MASK: MaskInvocation,
    Task.QUESTION_ANSWERING: QuestionInvocation,
}
"""Task that takes whole requests -> what their bodies are."""


def checked_body(body: bytes, *, model: str, task: Task) -> bytes:
    """A body in the form that engines get: ``inputs`` as they came, and every parameter, with its default.

    Args:
        body: as it came.
        model: its name, for messages.
        task: what it does.
    Raises:
        RequestError: naming each field that is wrong.
    """
    read = read_body(INVOCATIONS[task], decoded(body), model=model, task=task)
    content = read.model_dump()
    inputs = content["inputs"]
    return msgspec.json.encode({**content, "inputs": inputs[0] if read.is_single else inputs})


def example_body(task: Task, artifacts: ModelArtifacts) -> dict[str, Any]:
    """A body that a model answers, to be tried by a person.

    Args:
        task: what it does.
        artifacts: the model, whose mask is used.
    """
    text = "The capital of France is"
    if task is Task.GENERATE:
        return {"inputs": text, "parameters": {"max_new_tokens": 24}}
    if task is Task.FILL_MASK:
        mask = artifacts.document("tokenizer_config.json").get("mask_token") or "[MASK]"
        return {"inputs": f"{text} {mask.get('content') if isinstance(mask, dict) else mask}."}
    if task is Task.QUESTION_ANSWERING:
        return {"inputs": {"question": "What is the capital of France?", "context": f"{text} Paris."}}
    return {"inputs": text}


def _question(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise complete(f"{name} must be an object with a question and a context, which are texts")
    strangers = sorted(map(str, value.keys() - set(_QUESTION_KEYS)))
    if strangers:
        raise complete(f"{name}.{strangers[0]} is not known; a question has {' and '.join(_QUESTION_KEYS)}")
    for key in _QUESTION_KEYS:
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise complete(f"{name}.{key} must be a text that is not empty")
    return value
