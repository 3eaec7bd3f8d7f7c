# SPDX-License-Identifier: Apache-2.0
"""A token audit: for each request one JSON line in TOKEN_AUDIT_FILE, with what was asked and what was generated.

The wrapper runs in the worker, around the engine; the check runs in the server, before anything is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path

from lmi.api import FinishReason, GenerationRequest, Problem, TokenChunk, hookimpl

VARIABLE = "TOKEN_AUDIT_FILE"
Generators = list[AsyncGenerator[TokenChunk, None]]


@hookimpl
def lmi_validate_artifacts() -> list[Problem]:
    path = os.environ.get(VARIABLE, "")
    if path and Path(path).absolute().parent.is_dir():
        return []
    message = f"{VARIABLE}={path}: its folder does not exist" if path else f"{VARIABLE} is not set"
    hint = f"Set {VARIABLE} to the file that gets the lines, or leave token_audit out of LMI_EXTENSIONS"
    return [Problem(code="token-audit.no-file", message=message, hint=hint)]


@hookimpl(wrapper=True)
def lmi_generate_batch(requests: Sequence[GenerationRequest]) -> Generator[None, Generators, Generators]:
    generators = yield
    return [audited(request, each) for request, each in zip(requests, generators, strict=True)]


async def audited(
    request: GenerationRequest, generator: AsyncGenerator[TokenChunk, None]
) -> AsyncGenerator[TokenChunk, None]:
    """The same chunks; the line is written when they end, also if the client or the engine ends them early."""
    n_output_tokens = len(request.resumed_ids)  # made by a worker that died before it could write
    finish: FinishReason | None = None
    try:
        async with aclosing(generator):
            async for chunk in generator:
                n_output_tokens += len(chunk.ids)
                finish = chunk.finish.reason if chunk.finish else None
                yield chunk
    finally:
        write(request, n_output_tokens, finish)


def write(request: GenerationRequest, n_output_tokens: int, finish: FinishReason | None) -> None:
    line = {
        "request_id": request.request_id,
        "n_prompt_tokens": len(request.prompt_ids),
        "n_output_tokens": n_output_tokens,
        "finish": finish and finish.value,
    }
    # One short write at the end of a request; several workers may append to one file.
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
