# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: what FastAPI knows, and the inference routes, whose bodies it does not read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lmi.serving.invocation import Invocation, ListInvocation
from lmi.serving.openai_bodies import ChatBody, CompletionBody
from lmi.serving.openai_responses_bodies import ResponsesBody
from lmi.serving.tokenizing import DetokenizeBody, TokenizeBody
from lmi.serving.vector_bodies import EmbeddingBody

ROOT = "/"
"""Where clients of text-generation-inference send their requests."""


@dataclass(frozen=True)
class _Described:
    """A route whose bodies FastAPI does not read.

    Args:
        path, tag, summary: of the route.
        bodies: each that it takes.
        example: one of them.
    """

    path: str
    tag: str
    summary: str
    bodies: tuple[type[BaseModel], ...]
    example: dict[str, Any]


_INPUTS = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 64}}
_MESSAGES = {"messages": [{"role": "user", "content": "What is deep learning?"}], "max_tokens": 64}
_PROMPT = {"prompt": "Deep learning is", "max_tokens": 64}
_INPUT = {"model": "model", "input": "What is deep learning?", "max_output_tokens": 64}
_OF_LMI = (Invocation, ListInvocation)
_TEXTS = (*_OF_LMI, ChatBody, CompletionBody, ResponsesBody)

_ROUTES = (
    _Described("/invocations", "LMI", "Complete a text or several; the other bodies are OpenAI's", _TEXTS, _INPUTS),
    _Described("/predictions/{model}", "LMI", "The same, to a model by its name", _TEXTS, _INPUTS),
    _Described(ROOT, "LMI", "The same, as text-generation-inference has it", _TEXTS, _INPUTS),
    _Described("/v1/chat/completions", "OpenAI", "Answer a conversation", (ChatBody,), _MESSAGES),
    _Described("/v1/completions", "OpenAI", "Complete texts", (CompletionBody,), _PROMPT),
    _Described("/v1/responses", "OpenAI", "Answer items of a conversation", (ResponsesBody,), _INPUT),
    _Described("/v1/embeddings", "OpenAI", "Make vectors of texts", (EmbeddingBody,), {"input": ["a text", "another"]}),
    _Described("/tokenize", "tokens", "The ids of a text or of a chat", (TokenizeBody,), {"prompt": "Deep learning"}),
    _Described("/detokenize", "tokens", "The text of ids", (DetokenizeBody,), {"tokens": [9906, 1917]}),
)

_REFERENCE = "#/components/schemas/{model}"
_ANSWER = {"description": "The answer; a stream is text/event-stream or application/jsonlines"}
_ERRORS = {
    "400": "The request is wrong, or asks for something that the backend does not offer",
    "404": "There is no such model or adapter",
    "413": "The body is too large",
    "429": "Too many requests wait",
    "503": "The model does not answer now",
}


def describe(app: FastAPI, has_root: Callable[[], bool]) -> None:
    """Let an app's document, which ``/docs`` shows, have the inference routes, too.

    Args:
        app: with all its routes.
        has_root: whether a model speaks as text-generation-inference does, which is known once models are.
    """
    made: dict[bool, dict[str, Any]] = {}

    def document() -> dict[str, Any]:
        is_spoken = has_root()
        if is_spoken not in made:
            made[is_spoken] = _document(app, [each for each in _ROUTES if each.path != ROOT or is_spoken])
        return made[is_spoken]

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, routes: list[_Described]) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    bodies = {body: None for route in routes for body in route.bodies}
    _, schemas = models_json_schema([(each, "validation") for each in bodies], ref_template=_REFERENCE)
    components = found.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    for route in routes:
        found["paths"][route.path] = {"post": _operation(route)}
    for path, item in found["paths"].items():
        for method, operation in item.items():
            _complete(path, method, operation)
    return found


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Give an operation a name of its own, and the parameters that its path has."""
    names = re.findall(r"{(\w+)}", path)
    operation["operationId"] = "_".join([method, *re.findall(r"\w+", path)])
    parameters = operation.setdefault("parameters", [])
    known = {each["name"] for each in parameters}
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
        if name not in known
    ]


def _operation(route: _Described) -> dict[str, Any]:
    schemas = [{"$ref": _REFERENCE.format(model=body.__name__)} for body in route.bodies]
    content = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, "example": route.example}
    return {
        "tags": [route.tag],
        "summary": route.summary,
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {"200": _ANSWER, **{status: {"description": text} for status, text in _ERRORS.items()}},
    }
