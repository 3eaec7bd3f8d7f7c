# SPDX-License-Identifier: Apache-2.0
"""Next to nothing: Starlette, no validation, bytes made by msgspec."""

from collections.abc import AsyncIterator

import msgspec
from fake_engine import generate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

encode = msgspec.json.Encoder().encode


async def invoke(request: Request) -> Response:
    body = msgspec.json.decode(await request.body())
    n_tokens = body["parameters"]["max_new_tokens"]
    if body.get("stream"):
        return StreamingResponse(json_lines(n_tokens), media_type="application/jsonlines")
    answer = {"generated_text": "".join([text async for _, text in generate(n_tokens)])}
    return Response(encode(answer), media_type="application/json")


async def json_lines(n_tokens: int) -> AsyncIterator[bytes]:
    async for token_id, text in generate(n_tokens):
        yield encode({"token": {"id": token_id, "text": text, "log_prob": 0.0}}) + b"\n"


app = Starlette(routes=[Route("/invocations", invoke, methods=["POST"])])
