# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Responses API, where nothing is kept between requests: items in, items out, whole or as events.

Source: OpenAI's API reference, responses; reasoning as open models have it there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lmi.api.errors import LmiError
from lmi.api.texts import TextToken
from lmi.serving.chat_writing import Conversation
from lmi.serving.openai_answers import Group, Scores, TextAnswer, encoder, finish_reason_of, usage_of
from lmi.serving.openai_bodies import ChatBody
from lmi.serving.openai_chat import start_talk
from lmi.serving.openai_responses_bodies import ResponsesBody
from lmi.serving.openai_responses_output import Event, Output
from lmi.serving.streaming import EVENT_STREAM
from lmi.serving.tools.deltas import Content, Delta, Reasoning
from lmi.threads import aside

if TYPE_CHECKING:
    from lmi.serving.generation import Generation
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange, Form


class Responses(TextAnswer[ResponsesBody]):
    """The answer to one request for a response."""

    body_type = ResponsesBody

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: ResponsesBody, adapter: str) -> None:
        super().__init__(model, exchange, form, body, adapter)
        self._created = int(time.time())
        self._n_events = 0

    async def start(self) -> Group:
        given = self._body.input
        is_long = self.is_long(0 if isinstance(given, str) else len(given))
        self._chat, self._talk = await aside(self._read, is_long=is_long)
        return await start_talk(self, self._talk, self._chat, asked_as=self._asked_as)

    def _read(self) -> tuple[ChatBody, Conversation]:
        chat = self._body.chat()
        return chat, Conversation(self.model.speech, chat, form_name="text.format")

    def _asked_as(self, field: str, value: Any) -> str:
        body = self._body
        if field == "constraint" and self._chat.response_format is not None:
            return f"text.format={self._chat.response_format.type}"
        if field == "max_tokens":
            return f"max_output_tokens={value}"
        if field == "n_logprobs":
            return f"top_logprobs={body.top_logprobs}" if body.top_logprobs else f"include={body.include}"
        return self._chat.asked_as(field, value)

    async def whole(self, group: Group) -> None:
        """See ``TextAnswer``."""
        [choice] = await group.choices[0].result()
        reply = _Reply(self._talk, choice.generation, is_streamed=False, has_scores=self._body.wants_logprobs)
        if self._body.wants_logprobs:
            reply.add(choice.result.tokens)
        else:
            reply.read(choice.result.text)
        reply.finish()
        await self._exchange.answer(encoder.encode(await self._ended(group, reply)))

    async def stream(self, group: Group) -> None:
        """See ``TextAnswer``."""
        exchange, [generation] = self._exchange, group.generations
        reply = _Reply(self._talk, generation, is_streamed=True, has_scores=self._body.wants_logprobs)
        tokens = await generation.next()  # a failure before the first token still has a status of its own
        await exchange.start(200, self._form.stream_type)
        self._tell_failures(reply)
        opening = self._shown("in_progress", [])
        events: list[Event] = [{"type": f"response.{kind}", "response": opening} for kind in ("created", "in_progress")]
        while True:
            events += reply.add(tokens)
            generation.n_writes += 1
            if generation.finish_reason:
                break
            await exchange.write(self._written(events))
            events, tokens = [], await generation.next()
        events += reply.finish()
        response = await self._ended(group, reply)
        events.append({"type": f"response.{response['status']}", "response": response})
        await exchange.write(self._written(events), is_last=True)

    def _tell_failures(self, reply: _Reply) -> None:
        """From here on a failure is the last event."""
        kind = "response.failed"

        def body_of(error: LmiError, _: int) -> bytes:
            told = {"code": "server_error", "message": str(error)}
            response = self._shown("failed", reply.output.shown(is_whole=False), error=told)
            return self._encoded({"type": kind, "response": response})

        self._exchange.form = dataclasses.replace(
            self._form, error_body=body_of, framed=lambda piece: self._framed(kind, piece)
        )

    def _written(self, events: Sequence[Event]) -> bytes:
        return b"".join([self._framed(event["type"], self._encoded(event)) for event in events])

    def _encoded(self, event: Event) -> bytes:
        number, self._n_events = self._n_events, self._n_events + 1
        return encoder.encode({**event, "sequence_number": number})

    def _framed(self, kind: str, piece: bytes) -> bytes:
        framed = self._form.framed(piece)
        return b"event: %b\n%b" % (kind.encode(), framed) if self._form.stream_type is EVENT_STREAM else framed

    async def _ended(self, group: Group, reply: _Reply) -> dict[str, Any]:
        """The whole response."""
        reasoning = reply.output.reasoning
        encode = self.model.tokenizer.encode
        n_reasoning = len(await asyncio.to_thread(encode, reasoning, adds_special=False)) if reasoning else 0
        counts = usage_of(group.choices)
        usage = {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": min(n_reasoning, counts["completion_tokens"])},
            "total_tokens": counts["total_tokens"],
        }
        output = reply.output.shown(is_whole=reply.is_whole)
        if not reply.is_whole:
            return self._shown("incomplete", output, usage=usage, incomplete_details={"reason": "max_output_tokens"})
        return self._shown("completed", output, usage=usage, completed_at=int(time.time()))

    def _shown(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The response as it is now."""
        body, usual = self._body, 1.0 if self.model.draws else 0.0
        return {
            "id": f"resp_{self._exchange.request_id}",
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.model_name,
            "output": output,
            "temperature": usual if body.temperature is None else body.temperature,
            "usage": None,
            **body.repeated(),
            **more,
        }


class _Reply:
    """What the model says, read into items.

    Args:
        talk: which it answers.
        generation: which writes it.
        is_streamed: whether events are sent as they come.
        has_scores: whether log probabilities are told of the tokens of messages.
    """

    def __init__(self, talk: Conversation, generation: Generation, *, is_streamed: bool, has_scores: bool) -> None:
        self.output = Output(talk.new_call_id)
        self._parser = talk.parser(is_streamed=is_streamed)
        self._generation = generation
        self._scores = Scores(generation) if has_scores else None
        self._untold: list[dict[str, Any]] = []
        """Log probabilities of tokens whose text the parser holds."""

    @property
    def is_whole(self) -> bool:
        """Whether the model had no more to say."""
        return finish_reason_of(self._generation) == "stop"

    def add(self, tokens: Sequence[TextToken]) -> list[Event]:
        """Read further tokens; return what tells of them."""
        if self._scores is None:
            return self.read("".join(token.text for token in tokens))
        events: list[Event] = []
        # What only carries the rest of the text comes last and has no probability.
        for token, score in zip_longest(tokens, self._scores.chat(tokens)):
            self._untold += [] if score is None else [score]
            events += self.read(token.text)
        return events

    def read(self, text: str) -> list[Event]:
        """Read further text, whatever its tokens are; return what tells of it."""
        return self._told(self._parser.push(text)) if text else []

    def finish(self) -> list[Event]:
        """Nothing follows: return what tells of all that was held back."""
        return [*self._told(self._parser.finish()), *self.output.end(is_whole=self.is_whole)]

    def _told(self, found: Sequence[Delta | Reasoning]) -> list[Event]:
        events: list[Event] = []
        for each in found:
            scores: list[dict[str, Any]] = []
            if isinstance(each, Content):  # behind reasoning or a call, what was held was their end
                scores = self._untold if self.output.goes_on else self._untold[-1:]
            events += self.output.add(each, scores)
            self._untold = []
        return events
