# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: what FastAPI knows, and the inference routes, whose bodies it does not read."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lmi.serving.invocation import Invocation
from lmi.serving.openai_bodies import ChatBody, CompletionBody
from lmi.serving.tokenizing import DetokenizeBody, TokenizeBody
from lmi.serving.vector_bodies import EmbeddingBody

_MESSAGES = {"messages": [{"role": "user", "content": "What is deep learning?"}], "max_tokens": 64}
_ROUTES: tuple[tuple[str, str, str, type[BaseModel], dict[str, Any]], ...] = (
    (
        "/invocations", "LMI", "Complete a text; bodies with messages or a prompt are OpenAI's", Invocation,
        {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 64}},
    ),
    (
        "/predictions/{model}", "LMI", "The same, to a model by its name", Invocation,
        {"inputs": "What is deep learning?"},
    ),
    ("/v1/chat/completions", "OpenAI", "Answer a conversation", ChatBody, _MESSAGES),
    ("/v1/completions", "OpenAI", "Complete texts", CompletionBody, {"prompt": "Deep learning is", "max_tokens": 64}),
    ("/v1/embeddings", "OpenAI", "Make vectors of texts", EmbeddingBody, {"input": ["one text", "another"]}),
    ("/tokenize", "tokens", "The ids of a text or of a chat", TokenizeBody, {"prompt": "Deep learning"}),
    ("/detokenize", "tokens", "The text of ids", DetokenizeBody, {"tokens": [9906, 1917]}),
)  # fmt: skip
"""Path, tag, summary, body, and an example of one."""

_REFERENCE = "#/components/schemas/{model}"
_ANSWER = {"description": "The answer; a stream is text/event-stream or application/jsonlines"}
_ERRORS = {
    "400": "The request is wrong, or asks for something that the backend does not offer",
    "404": "There is no such model or adapter",
    "413": "The body is too large",
    "429": "Too many requests wait",
    "503": "The model does not answer now",
}


def describe(app: FastAPI) -> None:
    """Let an app's document, which ``/docs`` shows, have the inference routes, too."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    bodies = {body for _, _, _, body, _ in _ROUTES}
    _, schemas = models_json_schema([(each, "validation") for each in bodies], ref_template=_REFERENCE)
    components = found.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    for path, tag, summary, body, example in _ROUTES:
        found["paths"][path] = {"post": _operation(tag, summary, body, example)}
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


def _operation(tag: str, summary: str, body: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": {"$ref": _REFERENCE.format(model=body.__name__)}, "example": example}
    return {
        "tags": [tag],
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {"200": _ANSWER, **{status: {"description": text} for status, text in _ERRORS.items()}},
    }
