# SPDX-License-Identifier: Apache-2.0
"""Written by hand with FastAPI: validation by pydantic, one JSON line a token."""

import json
from collections.abc import AsyncIterator

from fake_engine import generate
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Parameters(BaseModel):
    max_new_tokens: int = 30


class Request(BaseModel):
    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False


app = FastAPI()


@app.post("/invocations", response_model=None)
async def invoke(request: Request) -> dict[str, str] | StreamingResponse:
    n_tokens = request.parameters.max_new_tokens
    if request.stream:
        return StreamingResponse(json_lines(n_tokens), media_type="application/jsonlines")
    return {"generated_text": "".join([text async for _, text in generate(n_tokens)])}


async def json_lines(n_tokens: int) -> AsyncIterator[str]:
    async for token_id, text in generate(n_tokens):
        yield json.dumps({"token": {"id": token_id, "text": text, "log_prob": 0.0}}) + "\n"
