# SPDX-License-Identifier: Apache-2.0
"""A response cache: what was generated once is given again without asking the engine.

It works in the worker, on ids, so streams, stop sequences and details of an answer are the same as without it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing

import msgspec

from lmi.api import FinishReason, GenerationRequest, TokenChunk, hookimpl

Generators = list[AsyncGenerator[TokenChunk, None]]
WHOLE = (FinishReason.EOS, FinishReason.STOP_TOKEN, FinishReason.LENGTH)


class ResponseCache:
    """Whole answers of one worker, ``max_tokens`` ids at most; those that were not used for longest go first."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._n_tokens = 0
        self._answers: OrderedDict[bytes, TokenChunk] = OrderedDict()

    @hookimpl(wrapper=True)
    def lmi_generate_batch(self, requests: Sequence[GenerationRequest]) -> Generator[None, Generators, Generators]:
        generators = yield  # nothing is computed before they are iterated
        return [self.cached(request, each) for request, each in zip(requests, generators, strict=True)]

    async def cached(
        self, request: GenerationRequest, generator: AsyncGenerator[TokenChunk, None]
    ) -> AsyncGenerator[TokenChunk, None]:
        """The answer if it is known, in one chunk; else what the generator gives."""
        key = key_of(request)
        chunks: list[TokenChunk] = []
        async with aclosing(generator):
            if key in self._answers and not request.resumed_ids:
                self._answers.move_to_end(key)
                yield self._answers[key]
                return
            async for chunk in generator:
                chunks.append(chunk)
                is_whole = chunk.finish is not None and chunk.finish.reason in WHOLE
                if is_whole and not request.resumed_ids:  # a resumed request makes only the end of its answer
                    self._keep(key, joined(chunks))
                yield chunk

    def _keep(self, key: bytes, answer: TokenChunk) -> None:
        if key in self._answers:  # the same request ran twice at the same time
            self._n_tokens -= len(self._answers.pop(key).ids)
        self._answers[key] = answer
        self._n_tokens += len(answer.ids)
        while self._n_tokens > self._max_tokens:
            self._n_tokens -= len(self._answers.popitem(last=False)[1].ids)


def key_of(request: GenerationRequest) -> bytes:
    """What decides the answer. A request that draws tokens without a seed has been given a new one: never found."""
    decisive = (request.prompt_ids, request.sampling, request.adapter, request.media)
    return hashlib.sha256(msgspec.msgpack.encode(decisive)).digest()


def joined(chunks: list[TokenChunk]) -> TokenChunk:
    """All chunks as one: the first one's log probabilities of the prompt, the last one's finish and usage."""
    logprobs = [each for chunk in chunks for each in chunk.logprobs or ()]
    ids = [each for chunk in chunks for each in chunk.ids]
    return msgspec.structs.replace(
        chunks[-1], ids=ids, logprobs=logprobs or None, prompt_logprobs=chunks[0].prompt_logprobs
    )


cache = ResponseCache(max_tokens=1_000_000)
