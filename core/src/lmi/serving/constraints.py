# SPDX-License-Identifier: Apache-2.0
"""Parameters that make the output follow a schema, a regular expression, a list or a grammar; what is wrong in them.

Sources: text-generation-inference's ``grammar``; the ``guided_*`` parameters that inference servers share.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lmi.api.backend import BackendInfo
from lmi.api.errors import RequestError
from lmi.api.requests import Constraint
from lmi.grammars import STACK_BYTES, reason_against
from lmi.serving.bodies import Part, complete
from lmi.threads import in_own_thread

_MOST_CHARS = 65536
_NO_SCHEMA = "input should be a JSON schema, as an object or as the text of one"


def _schema_text(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(_NO_SCHEMA) from None
    if not isinstance(value, dict):
        raise ValueError(_NO_SCHEMA)
    return json.dumps(value, ensure_ascii=False)


SchemaText = Annotated[str, BeforeValidator(_schema_text), Field(max_length=_MOST_CHARS)]
Regex = Annotated[str, Field(min_length=1, max_length=_MOST_CHARS)]
GrammarText = Annotated[str, Field(min_length=1, max_length=_MOST_CHARS)]
ChoiceTexts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1024, fail_fast=True)]


class Grammar(Part):
    """``{"type": "json", "value": schema}``; ``regex`` takes a text, ``json_schema`` a schema under its name."""

    type: Literal["json", "json_schema", "regex"]
    value: Any

    @model_validator(mode="after")
    def _is_what_its_type_says(self) -> Grammar:
        if self.type == "regex":
            if not isinstance(self.value, str) or not self.value:
                raise ValueError("value of type 'regex' should be a text")
        else:
            _schema_text(self._schema)
        return self

    @property
    def _schema(self) -> Any:
        is_named = self.type == "json_schema" and isinstance(self.value, dict) and "schema" in self.value
        return self.value["schema"] if is_named else self.value

    @property
    def constraint(self) -> Constraint:
        if self.type == "regex":
            return Constraint(kind="regex", source=self.value)
        return Constraint(kind="json_schema", source=_schema_text(self._schema))


class StructuredOutputs(Part):
    """One of the constraints, as others have them in one place: the same as the ``guided_`` parameter of its name."""

    schema_text: SchemaText | None = Field(None, alias="json")
    regex: Regex | None = None
    choice: ChoiceTexts | None = None
    grammar: GrammarText | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> StructuredOutputs:
        if len(self._given) != 1:
            asked = " and ".join(self._given) or "none"
            raise complete(f"structured_outputs takes one of json, regex, choice, grammar and json_object, not {asked}")
        return self

    @property
    def _given(self) -> dict[str, Any]:
        given = {
            "json": self.schema_text, "regex": self.regex, "choice": self.choice, "grammar": self.grammar,
            "json_object": self.json_object or None,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}

    @property
    def guide(self) -> tuple[str, Any]:
        """The ``guided_`` parameter that it stands for, and its value."""
        [(name, value)] = self._given.items()
        return ("guided_json", any_json().source) if name == "json_object" else (f"guided_{name}", value)


def choice(texts: list[str]) -> Constraint:
    """The output is one of these texts."""
    return Constraint(kind="choice", source=json.dumps(texts, ensure_ascii=False))


async def refuse_wrong(constraint: Constraint | None, info: BackendInfo, asked_as: Callable[[str, Any], str]) -> None:
    """Refuse a constraint that the backend could not obey, before it gets there.

    Args:
        constraint: of a request; None for none.
        info: the backend's description. Where its engine reads constraints itself, only what is wrong in itself is
            refused: the rest the engine judges.
        asked_as: how the caller put it.
    Raises:
        RequestError: with the reason.
    """
    if constraint is None:
        return
    reason = await in_own_thread(lambda: _reason(constraint, info), stack_bytes=STACK_BYTES)
    if reason:
        raise RequestError("request.invalid", f"{asked_as('constraint', constraint)}: {reason}", "Change it")


def _reason(constraint: Constraint, info: BackendInfo) -> str:
    in_regex = _reason_in_regex(constraint) if constraint.kind == "regex" else ""
    return in_regex or reason_against(constraint, is_lenient=info.own_constraints)


def _reason_in_regex(constraint: Constraint) -> str:
    """What makes a text no regular expression in any dialect, whichever the backend's is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what may change in Python's own dialect
            re.compile(constraint.source)
    except re.error as error:
        # What Python lacks, as \p{L} or (?<name>a), others may have.
        if not error.msg.startswith("bad escape") and reason_against(constraint):
            return f"it is no regular expression: {error}"
    except (OverflowError, RecursionError) as error:
        return f"it is no regular expression: {error}"
    return ""


def any_json() -> Constraint:
    """The output is a JSON object, whatever is in it."""
    return Constraint(kind="json_schema", source='{"type": "object"}')
