# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests in the schemas that servers of language models speak on ``/invocations``.

Source: LMI's schema of inputs and outputs; OpenAI's API reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmi.conformance.rules import NotApplicable

TEXT = "The capital of France is"
_N_TOKENS = 16

_TEXT_FIELDS = {"inputs": "LMI's", "messages": "OpenAI's chat", "prompt": "OpenAI's completions"}
"""Field that has the text -> name of the schema."""


@dataclass(frozen=True)
class Body:
    """The body of one request, and others made from it.

    Args:
        content: its bytes.
        content_type: of it.
    """

    content: bytes
    content_type: str = "application/json"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Body:
        return cls(json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields.

        Raises:
            NotApplicable: it is in no schema that is known here.
        """
        try:
            found = json.loads(self.content)
        except ValueError:
            found = None
        if isinstance(found, dict) and any(name in found for name in _TEXT_FIELDS):
            return found
        raise NotApplicable(
            f"the given body is in no schema that is known here: it has none of {', '.join(_TEXT_FIELDS)}"
        )

    @property
    def text_field(self) -> str:
        """Name of the field that has the text."""
        fields = self.fields
        return next(name for name in _TEXT_FIELDS if name in fields)

    @property
    def is_openai(self) -> bool:
        return self.text_field != "inputs"

    @property
    def schema(self) -> str:
        """What its schema is called, for people."""
        try:
            return f"{_TEXT_FIELDS[self.text_field]} schema"
        except NotApplicable:
            return "a schema of its own"

    def with_text(self, text: str) -> Body:
        """Another text."""
        value: Any = [{"role": "user", "content": text}] if self.text_field == "messages" else text
        return Body.of({**self.fields, self.text_field: value})

    def with_fields(self, **fields: Any) -> Body:
        return Body.of({**self.fields, **fields})

    def with_parameter(self, name: str, value: Any) -> Body:
        """A parameter of the generation, where the schema has it."""
        if self.is_openai:
            return self.with_fields(**{name: value})
        return self.with_fields(parameters={**self.fields.get("parameters", {}), name: value})

    def with_tokens(self, n_tokens: int, *, ignores_eos: bool = False) -> Body:
        """So many tokens of output; with ``ignores_eos`` whatever the model says, if the server knows that."""
        named = "max_completion_tokens" if "max_completion_tokens" in self.fields else "max_tokens"
        body = self.with_parameter(named if self.is_openai else "max_new_tokens", n_tokens)
        if not ignores_eos:
            return body
        return body.with_parameter("ignore_eos" if self.is_openai else "ignore_eos_token", True)

    def streamed(self) -> Body:
        return self.with_fields(stream=True)


def usual_bodies() -> list[Body]:
    """One body of each schema, in the order in which they are tried."""
    bodies = [Body.of({name: TEXT}) for name in _TEXT_FIELDS]
    return [each.with_text(TEXT).with_tokens(_N_TOKENS) for each in bodies]
