# SPDX-License-Identifier: Apache-2.0
"""The body of a request in LMI's schema."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmi.serving.bodies import few_fields, object_of
from lmi.serving.parameters import Parameters


def _listed(names: Any) -> Any:
    """One adapter may be named by itself."""
    return [names] if isinstance(names, str) else names


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: Parameters = Parameters()
    stream: bool = False
    adapters: Annotated[list[str], Field(fail_fast=True), BeforeValidator(_listed)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, data: Any) -> Any:
        data = object_of(data)
        parameters = data.get("parameters")
        if not isinstance(parameters, dict) or "stream" not in few_fields("parameters", parameters):
            return data
        # The one beside ``parameters`` counts. Source: DJL Serving.
        return {**data, "parameters": {name: value for name, value in parameters.items() if name != "stream"}}


class Invocation(_Body):
    """The body of a request."""

    inputs: str


class ListInvocation(_Body):
    """The body of a request with several texts, all with the same parameters."""

    inputs: list[str] = Field(min_length=1, fail_fast=True)
