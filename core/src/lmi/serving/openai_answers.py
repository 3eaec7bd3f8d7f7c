# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's answers have in common: choices that grow side by side, counts, probabilities.

Source: OpenAI's API reference.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from lmi.api.errors import LmiError
from lmi.api.texts import TextRequest, TextToken
from lmi.serving.asking import request_of
from lmi.serving.generation import Generation
from lmi.serving.openai_bodies import Asked, TextBody
from lmi.serving.parameters import Parameters
from lmi.serving.words import prompt_pieces

if TYPE_CHECKING:
    from lmi.serving.choices import Choice, Choices
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange, Form

Body = TypeVar("Body", bound=TextBody)
Completion = TypeVar("Completion", bound=Asked)

_REASONS = {"length": "length", "deadline": "length", "cancelled": "length"}

_LONG_BODY_BYTES = 32 << 10
_MANY_TURNS = 100
"""A longer conversation takes a millisecond or more to become a prompt: up to 14 us a message, as its template is."""

encoder = msgspec.json.Encoder()


def finish_reason_of(generation: Generation) -> str:
    """In OpenAI's words: what ended by itself, or by a stop sequence, is ``stop``."""
    return _REASONS.get(generation.finish_reason, "stop")


def usage_of(groups: Sequence[Choices]) -> dict[str, int]:
    """Tokens read and produced; a prompt that several answers begin with counts once."""
    n_prompt = sum(group.n_prompt_tokens for group in groups)
    n_output = sum(group.n_output_tokens for group in groups)
    return {"prompt_tokens": n_prompt, "completion_tokens": n_output, "total_tokens": n_prompt + n_output}


async def side_by_side(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, list[TextToken]]]:
    """New tokens of several generations, each with its place, as they come; the last ones of each set its end.

    Raises:
        LmiError: one of them failed.
    """
    if len(generations) == 1:
        while not generations[0].finish_reason:
            yield 0, await generations[0].next()
        return
    tasks = {asyncio.ensure_future(each.next()): place for place, each in enumerate(generations)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda each: tasks[each]):
                place = tasks.pop(task)
                tokens = task.result()
                if not generations[place].finish_reason:
                    tasks[asyncio.ensure_future(generations[place].next())] = place
                yield place, tokens
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # nothing goes on, and what else failed has been heard


class Group:
    """All sequences of one request.

    Args:
        choices: those of each prompt.
    """

    def __init__(self, choices: Sequence[Choices]) -> None:
        self.choices = tuple(choices)
        self.generations = [each for group in choices for each in group.generations]

    def cancel(self, reason: LmiError) -> None:
        for each in self.choices:
            each.cancel(reason)

    def end(self) -> None:
        for each in self.choices:
            each.end()


class Growing(Protocol):
    """One choice of a stream."""

    def pieces(self, tokens: Sequence[TextToken]) -> list[dict[str, Any]]:
        """The choices to send for its next tokens, each in an object of its own."""


class TextAnswer(ABC, Generic[Body]):
    """The answer to one request for text, whole or piece by piece.

    Args:
        model: which answers.
        exchange: the request.
        form: of a stream.
        body: of the request.
        adapter: which it asks for.
    Raises:
        RequestError: it asks for what cannot be.
    """

    body_type: ClassVar[type[TextBody]]

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: Body, adapter: str) -> None:
        self.model, self._exchange, self._form, self._body, self._adapter = model, exchange, form, body, adapter

    @property
    def is_stream(self) -> bool:
        return bool(self._body.stream)

    @property
    def model_name(self) -> str:
        """The model as its caller calls it."""
        return self._body.model or self.model.name

    def is_long(self, n_turns: int) -> bool:
        """Whether others would wait while a conversation of so many turns becomes a prompt."""
        return n_turns > _MANY_TURNS or self._exchange.n_bytes > _LONG_BODY_BYTES

    def request(self, parameters: Parameters, **more: Any) -> TextRequest:
        """A request with what all of this answer's have in common.

        Args:
            parameters: in LMI's words.
            more: as ``request_of`` has it.
        """
        own = {"request_id": self._exchange.unique_id, "stream": self.is_stream, "adapter": self._adapter}
        return request_of(self._exchange, self.model, parameters, **{**own, **more})

    @abstractmethod
    async def start(self) -> Group:
        """Start all sequences, or none.

        Raises:
            LmiError: they cannot be served.
        """

    @abstractmethod
    async def whole(self, group: Group) -> None:
        """Answer with one object."""

    @abstractmethod
    async def stream(self, group: Group) -> None:
        """Answer piece by piece."""


class ChoicesAnswer(TextAnswer[Completion]):
    """An answer of several choices, as completions of both kinds have it."""

    whole_kind: ClassVar[str]
    piece_kind: ClassVar[str]
    """What ``object`` says of a whole answer, and of a piece of a stream."""
    id_start: ClassVar[str]

    @property
    def _n(self) -> int:
        return self._body.n or 1

    @abstractmethod
    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """One choice of a whole answer."""

    @abstractmethod
    def _growing(self, index: int, generation: Generation) -> Growing:
        """One choice of a stream."""

    def _usage(self, group: Group) -> dict[str, int]:
        """Tokens of the whole answer."""
        return usage_of(group.choices)

    def _head(self, kind: str) -> dict[str, Any]:
        """What each object of an answer begins with."""
        return {
            "id": f"{self.id_start}-{self._exchange.request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model_name,
            "system_fingerprint": self.model.fingerprint,
        }

    async def whole(self, group: Group) -> None:
        """See ``TextAnswer``."""
        found = [each for choices in group.choices for each in await choices.result()]
        choices = [self._choice(index, choice) for index, choice in enumerate(found)]
        answer = {**self._head(self.whole_kind), "choices": choices, "usage": self._usage(group)}
        await self._exchange.answer(encoder.encode(answer))

    async def stream(self, group: Group) -> None:
        """See ``TextAnswer``."""
        exchange, form, head = self._exchange, self._form, self._head(self.piece_kind)
        generations, wants_usage = group.generations, self._body.wants_usage
        usage = {"usage": None} if wants_usage else {}
        growing = [self._growing(index, generation) for index, generation in enumerate(generations)]
        is_started = False
        async for place, tokens in side_by_side(generations):
            pieces = growing[place].pieces(tokens)
            if not is_started:  # a failure before the first token still has a status of its own
                await exchange.start(200, form.stream_type)
                is_started = True
            generations[place].n_writes += 1
            written = [encoder.encode({**head, "choices": [each], **usage}) for each in pieces]
            await exchange.write(b"".join(map(form.framed, written)))
        if wants_usage:
            await exchange.write(form.framed(encoder.encode({**head, "choices": [], "usage": self._usage(group)})))
        await exchange.write(form.last, is_last=True)


class Scores:
    """Log probabilities of one growing output, token by token.

    Args:
        generation: which keeps its tokens.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._n_told = 0

    def chat(self, tokens: Sequence[TextToken]) -> list[dict[str, Any]]:
        """Of the next tokens, as chat completions have them: the token, and the likeliest in its place.

        The bytes of all tokens, joined, are the text, which a stop sequence may end within them.
        """
        tokens = self._produced(tokens)
        return [
            {**self._chat_entry(token.id, token.logprob), "top_logprobs": [self._chat_entry(*pair) for pair in top]}
            for token, top in zip(tokens, self._tops(tokens), strict=True)
        ]

    def plain(self, tokens: Sequence[TextToken], offset: int) -> dict[str, Any]:
        """Of the next tokens, as completions have them; the likeliest in a place, and the one that was taken.

        Args:
            tokens: the next ones.
            offset: characters of the text before them.
        """
        tokens, name = self._produced(tokens), self._name
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                _named(top, token.id, token.logprob, name)
                for token, top in zip(tokens, self._tops(tokens), strict=True)
            ],
            "text_offset": [*accumulate((len(token.text) for token in tokens), initial=offset)][:-1],
        }

    def of_prompt(self) -> dict[str, Any]:
        """Of the prompt's tokens, as completions have them; the first has none."""
        generation, name = self._generation, partial(self._name, shows_special=True)
        ids = generation.flight.request.prompt_ids
        entries = generation.prompt_logprobs or [None] * len(ids)
        pieces = prompt_pieces(generation.model.tokenizer, generation.request, ids)
        return {
            "tokens": [name(token_id) for token_id in ids],
            "token_logprobs": [None if each is None else each.logprob for each in entries],
            "top_logprobs": [
                None if each is None else _named(each.top, each.id, each.logprob, name) for each in entries
            ],
            "text_offset": [*accumulate(map(len, pieces), initial=0)][:-1],
        }

    def _produced(self, tokens: Sequence[TextToken]) -> Sequence[TextToken]:
        """Without one that only carries the rest of the text."""
        return tokens[: self._generation.n_output_tokens - self._n_told]

    def _tops(self, tokens: Sequence[TextToken]) -> list[Sequence[tuple[int, float]]]:
        first, self._n_told = self._n_told, self._n_told + len(tokens)
        entries = self._generation.logprobs[first : self._n_told]
        return [*(entry.top for entry in entries), *[()] * (len(tokens) - len(entries))]

    def _chat_entry(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        data = self._generation.token_bytes(token_id)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    def _name(self, token_id: int, *, shows_special: bool = False) -> str:
        """A token's own text, or its bytes where those are no text: else all of them would have one name.

        Source: ``bytes:`` as OpenAI's completions have it.
        """
        data = self._generation.token_bytes(token_id, shows_special=shows_special)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _named(
    top: Sequence[tuple[int, float]], taken_id: int, logprob: float | None, name: Callable[[int], str]
) -> dict[str, float]:
    """The likeliest tokens of a place, and the one that stands there, which may be none of them."""
    found = {name(token_id): value for token_id, value in top}
    if logprob is not None and all(token_id != taken_id for token_id, _ in top):
        found[name(taken_id)] = logprob
    return found
