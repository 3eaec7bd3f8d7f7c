# SPDX-License-Identifier: Apache-2.0
"""In the worker, around lmi_generate_batch: tells how many requests arrive together."""

from collections.abc import AsyncGenerator, Generator

from lmi.api import Engine, GenerationRequest, TokenChunk, hookimpl

Generators = list[AsyncGenerator[TokenChunk, None]]


@hookimpl(wrapper=True)
def lmi_generate_batch(engine: Engine, requests: list[GenerationRequest]) -> Generator[None, Generators, Generators]:
    prompts = [bytes(each.prompt_ids).decode() for each in requests]
    print(f"together: {' '.join(sorted(prompts))}.", flush=True)
    return (yield)
