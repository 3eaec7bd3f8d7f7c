# SPDX-License-Identifier: Apache-2.0
"""The body of a request: decoded, then read as an object of its class, or refused with each field that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from lmi.api.errors import RequestError, sentences
from lmi.config.names import did_you_mean

_MOST_SHOWN_CHARS = 80
_MOST_TOLD = 16
"""Wrong fields that one answer names."""
_MOST_FIELDS = 1000
"""Of an object whose every name is judged: a body may have millions, and what is told of each costs a kilobyte."""
_COMPLETE = "complete"
"""Type of the pydantic errors whose message says by itself what is wrong."""

Body = TypeVar("Body", bound=BaseModel)


def decoded(body: bytes) -> Any:
    """The JSON of a body. NaN and Infinity pass, which many clients' libraries write: fields refuse them by their name.

    Raises:
        RequestError: it is none.
    """
    try:
        return from_json(body)
    except ValueError as error:
        raise RequestError("request.malformed-json", f"the body is not JSON: {error}") from None


def validated(kind: type[Body], data: Any) -> Body:
    """A decoded body, as an object of its class.

    Raises:
        RequestError: naming each field that is wrong, its value and the bound.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explained(error, kind) from None


def validated_known(kind: type[Body], data: Any, note: Callable[[str], None]) -> Body:
    """As ``validated`` does it, without the ``parameters`` that nobody knows.

    Args:
        kind, data: as ``validated`` takes them.
        note: told the name of each that is left out.
    Raises:
        RequestError: what is known of the body is wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        found = [each["loc"] for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
    unknown = {place[1] for place in found if len(place) == 2 and place[0] == "parameters"}
    if unknown:
        kept = {name: value for name, value in data["parameters"].items() if name not in unknown}
        data = {**data, "parameters": kept}
        for name in unknown:
            note(_shown(str(name)))
    return validated(kind, data)


def explained(error: ValidationError, kind: type[BaseModel], beside: Iterable[str] = ()) -> RequestError:
    """What is wrong with a body, in words.

    Args:
        error: as pydantic has it.
        kind: the body's class.
        beside: further names that may stand at the top of the body.
    """
    details = error.errors(include_url=False, include_context=False)
    texts, hints = [], []
    for detail in details[:_MOST_TOLD]:
        location = detail["loc"]
        field = _shown(".".join(map(str, location)))
        if detail["type"] == "extra_forbidden":
            known = [*names_of(_owner(kind, location)), *(beside if len(location) == 1 else ())]
            texts.append(f"{field} is not a parameter")
            hints.append(did_you_mean(_shown(str(location[-1])), known, f"Known: {', '.join(known)}"))
        elif detail["type"] == "missing":
            texts.append(f"{field} is missing")
        elif detail["type"] == _COMPLETE:
            texts.append(detail["msg"])
        else:
            message = detail["msg"].removeprefix("Value error, ")
            texts.append(f"{field}={_shown(repr(detail['input']))}: {message[0].lower()}{message[1:]}")
    if len(details) > _MOST_TOLD:
        texts.append(f"and {len(details) - _MOST_TOLD} more")
    return RequestError("request.invalid", "; ".join(texts), sentences(*dict.fromkeys(hints)))


def names_of(kind: type[BaseModel]) -> list[str]:
    """Every name that an object of this class may have, other names of its fields included."""
    fields = {name: field for name, field in kind.model_fields.items() if not field.exclude}
    takes_both = kind.model_config.get("populate_by_name", False)
    names = ((name, field.alias) if takes_both else (field.alias or name,) for name, field in fields.items())
    return [each for both in names for each in both if each]


def object_of(data: Any) -> dict[str, Any]:
    """A decoded body that is an object; for its class's own validator."""
    if not isinstance(data, dict):
        raise complete("the body must be a JSON object")
    return few_fields("the body", data)


def few_fields(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """An object of a body, refused where nobody could have meant all its fields; for its class's own validator."""
    if len(value) > _MOST_FIELDS:
        raise complete(f"{name} has {len(value)} fields; at most {_MOST_FIELDS} are read")
    return value


class Part(BaseModel):
    """An object within a body: it knows each of its names, and takes no number for a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"object should have at most {_MOST_FIELDS} fields, not {len(value)}")
        return value


def complete(message: str) -> PydanticCustomError:
    """What a class's own validator raises where the message says by itself what is wrong, and with what."""
    return PydanticCustomError(_COMPLETE, message)


def _owner(kind: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The class that was given a wrong name: the innermost one on the way there."""
    owner = kind
    for step in location[:-1]:
        fields = owner.model_fields.items()
        annotation = next((field.annotation for name, field in fields if step in (name, field.alias)), None)
        owner = _class_in(annotation) or owner
    return owner


def _class_in(annotation: Any) -> type[BaseModel] | None:
    if parts := get_args(annotation):  # before the rest: Python 3.10 takes list[str] for a class
        return next(filter(None, map(_class_in, parts)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN_CHARS else text[: _MOST_SHOWN_CHARS - 3] + "..."
