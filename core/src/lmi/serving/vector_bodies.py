# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests for vectors and labels: LMI's, with the names of HuggingFace's servers, and OpenAI's.

Source: LMI's guide to text embedding; text-embeddings-inference (``truncate``, ``normalize``); OpenAI's reference.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lmi.api import RequestError, Task
from lmi.serving.bodies import Body, Part, complete, explained, names_of, object_of
from lmi.serving.parameters import Parameters as GenerationParameters

_LARGEST_ID = 2**31 - 1
N_INPUTS = 2048
"""Most inputs of one request. Source: OpenAI's reference."""
_OF_GENERATION = {"stream", "messages", "prompt", "max_tokens", *names_of(GenerationParameters)}


class CutParameters(Part):
    """What is done with an input that is longer than the model takes: cut where ``truncate`` says so, else refused."""

    truncate: bool = False
    truncation_direction: Literal["right", "left"] = "right"

    @field_validator("truncation_direction", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class VectorParameters(CutParameters):
    """``parameters`` of a request for vectors; ``normalize`` unset means ``option.normalize``."""

    normalize: bool | None = None
    dimensions: int | None = Field(None, ge=1, le=_LARGEST_ID)


class LabelParameters(CutParameters):
    """``parameters`` of a request for labels; ``top_k`` unset means all of them."""

    top_k: int | None = Field(None, ge=1, le=_LARGEST_ID)


class Invocation(BaseModel):
    """A body of ``inputs``, one or a list, and ``parameters``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    parameter_type: ClassVar[type[BaseModel]]

    inputs: list[Any]
    is_single: bool = Field(False, exclude=True)

    @classmethod
    def listed(cls, inputs: Any) -> tuple[list[Any], bool]:
        """The inputs as a list, and whether there was one that stood for itself.

        Raises:
            PydanticCustomError: they are none.
        """
        return _inputs("inputs", inputs, takes_ids=False), isinstance(inputs, str)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        """One text as a list, and parameters that stand beside ``inputs``, as HuggingFace's servers take them."""
        data = object_of(data)
        if "is_single" in data:
            raise complete("is_single is not a parameter")
        given = data.get("parameters", {})
        if not isinstance(given, dict):
            raise complete("parameters must be an object")
        beside = {name: value for name, value in data.items() if name in cls.parameter_type.model_fields}
        twice = sorted(beside.keys() & given.keys())
        if twice:
            raise complete(f"{twice[0]} is there twice, inside parameters and beside")
        rest = {name: value for name, value in data.items() if name not in beside}
        if "inputs" in rest:
            inputs, is_single = cls.listed(rest["inputs"])
            rest = {**rest, "inputs": inputs, "is_single": is_single}
        return {**rest, "parameters": {**beside, **given}}


class VectorInvocation(Invocation):
    """LMI's body of a request for vectors."""

    parameter_type = VectorParameters
    parameters: VectorParameters = VectorParameters()


class LabelInvocation(Invocation):
    """LMI's body of a request for labels."""

    parameter_type = LabelParameters
    parameters: LabelParameters = LabelParameters()


class EmbeddingBody(VectorParameters):
    """OpenAI's body of a request for vectors, with LMI's parameters beside it."""

    input: list[str] | list[list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        data = object_of(data)
        return {**data, "input": _inputs("input", data["input"], takes_ids=True)} if "input" in data else data


def read_body(kind: type[Body], data: Any, *, model: str, task: Task) -> Body:
    """A body, as an object of its class.

    Args:
        kind: the class.
        data: the decoded JSON.
        model: its name, for messages.
        task: what it does, for messages.
    Raises:
        RequestError: naming each field that is wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        beside = names_of(kind.parameter_type) if issubclass(kind, Invocation) else ()
        raise _of_generation(error, model, task) or explained(error, kind, beside) from None


def _inputs(name: str, value: Any, *, takes_ids: bool) -> list[Any]:
    """The inputs as a list of texts, or of lists of ids."""
    whole = [value] if isinstance(value, str) or (takes_ids and _are_ids(value)) else value
    if isinstance(whole, list) and not whole:
        raise complete(f"{name} is an empty list; give at least one text")
    if isinstance(whole, list) and len(whole) > N_INPUTS:
        raise complete(f"{name} has {len(whole)} entries; a request takes {N_INPUTS}")
    if isinstance(whole, list) and all(isinstance(each, str) for each in whole):
        return whole
    if isinstance(whole, list) and takes_ids and all(map(_are_ids, whole)):
        return whole
    forms = (
        "a text, a list of texts, a list of token ids or a list of those" if takes_ids else "a text or a list of them"
    )
    raise complete(f"{name} must be {forms}")


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(each) is int and 0 <= each <= _LARGEST_ID for each in value)
    )


def _of_generation(error: ValidationError, model: str, task: Task) -> RequestError | None:
    """What is wrong where a name is one that models know which generate text."""
    details = error.errors(include_url=False, include_context=False)
    strangers = [str(detail["loc"][-1]) for detail in details if detail["type"] == "extra_forbidden"]
    foreign = [name for name in strangers if name in _OF_GENERATION]
    if not foreign:
        return None
    return RequestError(
        "request.wrong-task",
        f"{', '.join(foreign)}: for models that generate text; model {model!r} {task.does}",
        f"Leave it out, or send it to a model that {Task.GENERATE.does}",
    )
