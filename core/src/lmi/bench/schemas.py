# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests in each schema.

Source: LMI's schema of inputs and outputs; OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Schema:
    """One way to ask for text.

    Args:
        path: where it is asked.
        body: makes the request for a prompt and a number of tokens.
    """

    path: str
    body: Callable[[Any, int], dict[str, Any]]


def _text(prompt: Any) -> str:
    """A text of messages, for a schema that takes one."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(each.get("content", "")) if isinstance(each, dict) else str(each) for each in prompt)


def _lmi(prompt: Any, n_tokens: int) -> dict[str, Any]:
    return {"inputs": _text(prompt), "parameters": {"max_new_tokens": n_tokens}, "stream": True}


def _chat(prompt: Any, n_tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"messages": messages, "max_tokens": n_tokens, **_STREAM}


def _completion(prompt: Any, n_tokens: int) -> dict[str, Any]:
    return {"prompt": _text(prompt), "max_tokens": n_tokens, **_STREAM}


_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

SCHEMAS = {
    "lmi": Schema(path="/invocations", body=_lmi),
    "chat": Schema(path="/v1/chat/completions", body=_chat),
    "completions": Schema(path="/v1/completions", body=_completion),
}


def asked(schema: str, prompt: Any, *, n_tokens: int, ignores_eos: bool, model: str) -> dict[str, Any]:
    """The body of one request.

    Args:
        schema: a name of SCHEMAS.
        prompt: a text or messages.
        n_tokens: most tokens of its answer.
        ignores_eos: whether the answer has so many, whatever the model says.
        model: its name; empty leaves it out.
    """
    body = SCHEMAS[schema].body(prompt, n_tokens)
    if ignores_eos:
        if schema == "lmi":
            body["parameters"]["ignore_eos_token"] = True
        else:
            body["ignore_eos"] = True
    if model and schema != "lmi":
        body["model"] = model
    return body
