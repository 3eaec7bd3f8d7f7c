# SPDX-License-Identifier: Apache-2.0
"""The body of a request in LMI's schema: read, or refused with each field that is wrong."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from lmi.api.errors import RequestError, sentences
from lmi.serving.parameters import Parameters


def _listed(names: Any) -> Any:
    """One adapter may be named by itself."""
    return [names] if isinstance(names, str) else names


class Invocation(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False
    adapters: Annotated[list[str] | None, BeforeValidator(_listed)] = None

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body must be a JSON object")
        return data


def parse(body: bytes) -> Invocation:
    """Read a body.

    Raises:
        RequestError: naming each field that is wrong, its value and the bound.
    """
    try:
        return Invocation.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None


def parse_decoded(body: Any) -> Invocation:
    """The same for a body that an extension has translated."""
    try:
        return Invocation.model_validate(body)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> RequestError:
    details = error.errors(include_url=False)
    if details[0]["type"] == "json_invalid":
        return RequestError("request.malformed-json", f"the body is not JSON: {details[0]['ctx']['error']}")
    texts, hints = [], []
    for detail in details:
        field = ".".join(map(str, detail["loc"])) or "body"
        if detail["type"] == "extra_forbidden":
            name = str(detail["loc"][-1])
            known = Parameters if detail["loc"][0] == "parameters" else Invocation
            near = difflib.get_close_matches(name, known.model_fields, n=1)
            texts.append(f"{field} is not a parameter")
            hints.append(f"Did you mean {near[0]!r}" + "?" if near else "Known: " + ", ".join(known.model_fields))
        elif detail["type"] == "missing":
            texts.append(f"{field} is missing")
        else:
            value = repr(detail["input"])
            value = value if len(value) <= 80 else value[:77] + "..."
            message = detail["msg"].removeprefix("Value error, ")
            texts.append(f"{field}={value}: {message[0].lower()}{message[1:]}")
    return RequestError("request.invalid", "; ".join(texts), sentences(*hints))
