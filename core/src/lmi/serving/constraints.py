# SPDX-License-Identifier: Apache-2.0
"""Parameters that make the output follow a schema, a regular expression, a list or a grammar.

Sources: text-generation-inference's ``grammar``; the ``guided_*`` parameters that inference servers share.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmi.api.requests import Constraint

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


def _regex(text: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what may change in Python's own dialect
            re.compile(text)
    except re.error as error:
        # Engines have escapes that Python lacks, as \p{L}; those they judge themselves.
        if not error.msg.startswith("bad escape"):
            raise ValueError(f"input should be a regular expression: {error}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"input should be a regular expression: {error}") from None
    return text


SchemaText = Annotated[str, BeforeValidator(_schema_text), Field(max_length=_MOST_CHARS)]
Regex = Annotated[str, Field(min_length=1, max_length=_MOST_CHARS), AfterValidator(_regex)]
GrammarText = Annotated[str, Field(min_length=1, max_length=_MOST_CHARS)]
ChoiceTexts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1024)]


class Grammar(BaseModel):
    """``{"type": "json", "value": schema}``; ``regex`` takes a text, ``json_schema`` a schema under its name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["json", "json_schema", "regex"]
    value: Any

    @model_validator(mode="after")
    def _is_what_its_type_says(self) -> Grammar:
        if self.type == "regex":
            if not isinstance(self.value, str) or not self.value:
                raise ValueError("value of type 'regex' should be a text")
            _regex(self.value)
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


def choice(texts: list[str]) -> Constraint:
    """The output is one of these texts."""
    return Constraint(kind="choice", source=json.dumps(texts, ensure_ascii=False))
