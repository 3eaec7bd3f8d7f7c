# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of a model that writes what a test says, in the chunks it says: no worker, no engine, no socket."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from lmi.api import (
    STEPPER_CAPABILITIES,
    EngineLimits,
    Finish,
    FinishReason,
    GenerationRequest,
    TokenChunk,
    TokenLogprob,
)
from lmi.plugins import Plugins
from lmi.serving.app import build_app
from lmi.serving.context import Context
from lmi.serving.models import Model
from lmi.serving.tokenizer import Tokenizer
from lmi.workers.flight import Flight
from tests.core.answering import plan_of_echo
from tests.limits import limit_s


@dataclass(frozen=True)
class Script:
    """What the model writes.

    Args:
        ids: its output; further sequences of a request write the same, begun one id later each. Where the request wants
            more of them, its deadline has come.
        cuts: after how many ids a chunk ends.
        is_likely: whether each id is the likeliest in its place; else it is none of the likeliest.
    """

    ids: tuple[int, ...]
    cuts: frozenset[int] = frozenset()
    is_likely: bool = True

    def chunks(self, request: GenerationRequest, place: int, eos_ids: tuple[int, ...]) -> Iterator[TokenChunk]:
        """What an engine sends of the sequence in this place of its group."""
        sampling, ids = request.sampling, list(self.ids[place:] + self.ids[:place])
        ends = () if sampling.ignore_eos else eos_ids
        finish = Finish(FinishReason.DEADLINE)
        for index, token_id in enumerate(ids):
            if token_id in ends:
                finish = Finish(FinishReason.EOS, token_id)
            elif token_id in sampling.stop_token_ids:
                finish = Finish(FinishReason.STOP_TOKEN, token_id)
            elif index + 1 == sampling.max_tokens:
                finish = Finish(FinishReason.LENGTH)
            else:
                continue
            ids = ids[: index + 1]
            break
        at = [0, *sorted(cut for cut in self.cuts if 0 < cut < len(ids)), len(ids)]
        for begin, end in itertools.pairwise(at):
            is_last = end == len(ids) and finish.reason is not FinishReason.DEADLINE
            yield TokenChunk(
                ids[begin:end],
                _logprobs(ids[begin:end], sampling.n_logprobs, 0 if self.is_likely else 1),
                None if begin else _prompt_logprobs(request),
                finish if is_last else None,
            )
        if finish.reason is FinishReason.DEADLINE:
            yield TokenChunk([], finish=finish)


def _logprobs(ids: list[int], n: int | None, first: int = 0) -> list[TokenLogprob] | None:
    if n is None:
        return None
    places = range(first, first + n)
    return [
        TokenLogprob(each, -(each % 8) / 8, 1, tuple((each + k, -k - each % 8 / 8) for k in places)) for each in ids
    ]


def _prompt_logprobs(request: GenerationRequest) -> list[TokenLogprob | None] | None:
    n = request.sampling.n_prompt_logprobs
    if n is None:
        return None
    return [None, *(_logprobs(request.prompt_ids[1:], n) or ())]


class _Pool:
    """Where requests go: each gets its chunks of the script, and time between them to write them."""

    limits = EngineLimits(max_context_tokens=100_000, max_batch_size=1000, vocab_size=0)
    workers: tuple[Any, ...] = ()

    def __init__(self, eos_ids: tuple[int, ...]) -> None:
        self.script = Script(())
        self._eos_ids = eos_ids
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check_room(self, n_requests: int) -> None:
        pass

    def submit(self, flights: list[Flight]) -> None:
        for place, flight in enumerate(flights):
            self._tasks[flight.request.request_id] = asyncio.ensure_future(self._run(flight, place, self.script))

    async def _run(self, flight: Flight, place: int, script: Script) -> None:
        for chunk in script.chunks(flight.request, place, self._eos_ids):
            flight.on_chunk(chunk)
            for _ in range(4):
                await asyncio.sleep(0)

    def cancel(self, flight: Flight) -> None:
        task = self._tasks.get(flight.request.request_id)
        if task is not None:
            task.cancel()


class Face:
    """The app with one model, and a client for it.

    Args:
        tokenizer: of the model.
        eos_ids: what ends its texts.
        text_filters: as extensions have them.
        options: of the model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_ids: tuple[int, ...] = (),
        text_filters: tuple[Callable[..., Any], ...] = (),
        **options: Any,
    ) -> None:
        plan = plan_of_echo()
        plan = dataclasses.replace(
            plan,
            info=dataclasses.replace(plan.info, capabilities=STEPPER_CAPABILITIES),
            artifacts=msgspec.structs.replace(plan.artifacts, eos_token_ids=eos_ids),
            options=plan.options.model_copy(update=options),
        )
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self._pool = _Pool(eos_ids)
        model: Any = Model(plan, tokenizer, text_filters=text_filters)
        model.pool = self._pool
        context = Context(Plugins.discover({"LMI_EXTENSIONS": ""}))
        context.models[model.name] = model
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(build_app(context)), base_url="http://model")

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    def ask(self, script: Script, path: str, body: dict[str, Any], accept: str = "") -> httpx.Response:
        """The answer while the model writes the script."""
        self._pool.script = script
        headers = {"accept": accept} if accept else {}
        asking = self._client.post(path, json=body, headers=headers)
        answer = self._loop.run_until_complete(asyncio.wait_for(asking, limit_s(20)))
        assert answer.status_code == 200, answer.text
        return answer


def lines_of(answer: httpx.Response) -> list[Any]:
    """The objects of a stream of JSON lines."""
    assert answer.headers["content-type"] == "application/jsonlines"
    return [json.loads(line) for line in answer.content.removesuffix(b"\n").split(b"\n")]


def events_of(answer: httpx.Response) -> list[Any]:
    """The objects of a stream of server-sent events, without the word that ends OpenAI's."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = answer.content.removesuffix(b"\n\n").split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events if event != b"data: [DONE]"]
