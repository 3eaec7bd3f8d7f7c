# SPDX-License-Identifier: Apache-2.0
"""The body of a request in LMI's schema."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from lmi.serving.bodies import object_of
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
        return object_of(data)
