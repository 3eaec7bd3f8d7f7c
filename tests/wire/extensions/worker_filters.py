# SPDX-License-Identifier: Apache-2.0
"""In the worker, around lmi_generate_batch: counts what is generated and replaces the letter x by a star."""

import os
from collections.abc import AsyncGenerator, Generator

import msgspec

from lmi.api import Engine, GenerationRequest, TokenChunk, hookimpl

Generators = list[AsyncGenerator[TokenChunk, None]]


@hookimpl(wrapper=True)
def lmi_generate_batch(engine: Engine, requests: list[GenerationRequest]) -> Generator[None, Generators, Generators]:
    generators = yield
    return [_counted(_starred(each)) for each in generators]


async def _counted(chunks: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
    n_tokens = 0
    async for chunk in chunks:
        n_tokens += len(chunk.ids)
        yield chunk
    print(f"counted {n_tokens} tokens in process {os.getpid()}", flush=True)


async def _starred(chunks: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
    async for chunk in chunks:
        yield msgspec.structs.replace(chunk, ids=[ord("*") if each == ord("x") else each for each in chunk.ids])
