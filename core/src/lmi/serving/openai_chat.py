# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat completions: a conversation in, a message out, whole or as it grows.

Source: OpenAI's API reference, chat completions; ``reasoning_content`` as other servers have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from lmi.api.texts import TextRequest, TextToken
from lmi.serving.chat_writing import Conversation, Message
from lmi.serving.choices import Choice, prepare_choices
from lmi.serving.openai_answers import Group, Scores, encoder, finish_reason_of, head_of, side_by_side, usage_of
from lmi.serving.openai_bodies import ChatBody

if TYPE_CHECKING:
    from lmi.serving.generation import Generation
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange, Form


class Chat:
    """The answer to one chat request.

    Args:
        model: which answers.
        exchange: the request.
        form: of a stream.
        body: of the request.
        adapter: which it asks for.
    Raises:
        RequestError: it asks for what cannot be.
    """

    body_type: ClassVar[type[BaseModel]] = ChatBody

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: ChatBody, adapter: str) -> None:
        self._model, self._exchange, self._form, self._adapter = model, exchange, form, adapter
        self._body = body
        self._n = self._body.n or 1
        self._talk = Conversation(model.speech, self._body)
        self._id = f"chatcmpl-{exchange.request_id}"

    @property
    def is_stream(self) -> bool:
        return bool(self._body.stream)

    async def start(self) -> Group:
        """Start all sequences, or none.

        Raises:
            LmiError: they cannot be served.
        """
        body, model = self._body, self._model
        n_tops = (body.top_logprobs or 0) if body.logprobs else None
        parameters = body.parameters(draws=model.draws, max_new_tokens=body.most_tokens, top_n_tokens=n_tops)
        sampling = parameters.sampling(shows_logprobs=n_tops is not None)
        request = TextRequest(
            request_id=self._exchange.unique_id,
            model=model.name,
            prompt=self._talk.prompt,
            adds_special=False,
            fills_context=body.most_tokens is None,
            sampling=self._talk.constrained(sampling),
            stop_sequences=tuple(parameters.stop_sequences),
            bad_words=tuple(parameters.bad_words),
            keeps_stop=parameters.include_stop_str_in_output,
            shows_special=not parameters.skip_special_tokens or self._talk.reads_special,
            stream=self.is_stream,
            adapter=self._adapter,
            headers=self._exchange.headers,
        )
        choices = await prepare_choices(
            model, request, n_answers=self._n, n_candidates=self._n, keeps_tokens=n_tops is not None,
            asked_as=body.asked_as,
        )  # fmt: skip
        model.start([*choices.generations])
        return Group([choices])

    # --------------------------------------------------------------------------------------------------------- answers

    async def whole(self, group: Group) -> None:
        """Answer with one object."""
        [choices] = group.choices
        found = [self._choice(index, choice) for index, choice in enumerate(await choices.result())]
        head = head_of("chat.completion", self._id, self._model, self._body.model)
        await self._exchange.answer(encoder.encode({**head, "choices": found, "usage": usage_of(group.choices)}))

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = self._talk.message(is_streamed=self.is_stream)
        message.add(choice.result.text)
        message.finish()
        logprobs = None
        if self._body.logprobs:
            logprobs = {"content": Scores(choice.generation).chat(choice.result.tokens), "refusal": None}
        return {
            "index": index,
            "message": message.whole(),
            "logprobs": logprobs,
            "finish_reason": self._reason(choice.generation, message),
        }

    async def stream(self, group: Group) -> None:
        """Answer piece by piece."""
        exchange, form, generations = self._exchange, self._form, group.generations
        head = head_of("chat.completion.chunk", self._id, self._model, self._body.model)
        growing = [_Growing(self._talk.message(is_streamed=self.is_stream), Scores(each)) for each in generations]
        is_started = False
        async for place, tokens in side_by_side(generations):
            pieces = self._pieces(place, growing[place], generations[place], tokens)
            if not is_started:  # a failure before the first token still has a status of its own
                await exchange.start(200, form.stream_type)
                is_started = True
            generations[place].n_writes += 1
            usage = {"usage": None} if self._body.wants_usage else {}
            written = [encoder.encode({**head, "choices": [each], **usage}) for each in pieces]
            await exchange.write(b"".join(map(form.framed, written)))
        if self._body.wants_usage:
            await exchange.write(form.framed(encoder.encode({**head, "choices": [], "usage": usage_of(group.choices)})))
        await exchange.write(form.last, is_last=True)

    def _pieces(
        self, index: int, growing: _Growing, generation: Generation, tokens: list[TextToken]
    ) -> list[dict[str, Any]]:
        message = growing.message
        deltas = message.add("".join(token.text for token in tokens))
        is_last = bool(generation.finish_reason)
        if is_last:
            deltas += message.finish()
        if not growing.is_begun:
            growing.is_begun = True
            deltas = [{"role": "assistant", "content": ""}, *deltas]
        logprobs = None
        if self._body.logprobs:
            logprobs = {"content": growing.scores.chat(tokens), "refusal": None}
            deltas = deltas or [{}]
        pieces: list[dict[str, Any]] = [
            {"index": index, "delta": each, "logprobs": None, "finish_reason": None} for each in deltas
        ]
        if pieces and logprobs is not None:
            pieces[-1]["logprobs"] = logprobs
        if is_last:
            reason = self._reason(generation, message)
            pieces.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})
        return pieces

    def _reason(self, generation: Generation, message: Message) -> str:
        reason = finish_reason_of(generation)
        return "tool_calls" if message.has_calls and reason == "stop" and not self._talk.is_named else reason


class _Growing:
    """One choice of a stream."""

    def __init__(self, message: Message, scores: Scores) -> None:
        self.message, self.scores = message, scores
        self.is_begun = False
