# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat completions: a conversation in, a message out, whole or as it grows.

Source: OpenAI's API reference, chat completions; ``reasoning_content`` as other servers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lmi.api.errors import RequestError
from lmi.api.texts import TextToken
from lmi.serving.chat_writing import Conversation, Message
from lmi.serving.choices import Choice, prepare_choices
from lmi.serving.openai_answers import ChoicesAnswer, Group, Growing, Scores, TextAnswer, finish_reason_of
from lmi.serving.openai_bodies import ChatBody
from lmi.threads import aside

if TYPE_CHECKING:
    from lmi.serving.generation import Generation
    from lmi.serving.models import Model
    from lmi.serving.sessions import Session
    from lmi.serving.streaming import Exchange, Form


async def start_talk(
    answer: TextAnswer[Any], talk: Conversation, chat: ChatBody, *, asked_as: Callable[[str, Any], str]
) -> Group:
    """Start all sequences that go on with a conversation, or none.

    Args:
        answer: which they are for.
        talk: the conversation.
        chat: what is asked of it.
        asked_as: how the caller asked for a field of SamplingParams.
    Raises:
        LmiError: they cannot be served.
    """
    model, n = answer.model, chat.n or 1
    n_tops = (chat.top_logprobs or 0) if chat.logprobs else None
    parameters = chat.parameters(draws=model.draws, max_new_tokens=chat.most_tokens, top_n_tokens=n_tops)
    request = answer.request(
        parameters,
        prompt=talk.prompt,
        adds_special=False,
        fills_context=chat.most_tokens is None,
        sampling=talk.constrained(parameters.sampling(shows_logprobs=n_tops is not None)),
        shows_special=not parameters.skip_special_tokens or talk.special_ids,
    )
    choices = await prepare_choices(
        model, request, n_answers=n, n_candidates=n, keeps_tokens=n_tops is not None, asked_as=asked_as
    )
    model.start([*choices.generations])
    return Group([choices])


class Chat(ChoicesAnswer[ChatBody]):
    """The answer to one chat request."""

    body_type = ChatBody
    whole_kind, piece_kind, id_start = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: ChatBody, adapter: str) -> None:
        super().__init__(model, exchange, form, body, adapter)
        self._chat = body
        if body.keep_history:
            self._chat = _with_history(body, exchange.session)
            model.sessions.refuse_full(body.messages)

    async def start(self) -> Group:
        read = partial(Conversation, self.model.speech, self._chat)
        self._talk = await aside(read, is_long=self.is_long(len(self._chat.messages)))
        return await start_talk(self, self._talk, self._body, asked_as=self._body.asked_as)

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = self._talk.message(is_streamed=False)
        message.add(choice.result.text)
        message.finish()
        self.keep(message)
        logprobs = None
        if self._body.logprobs:
            logprobs = {"content": Scores(choice.generation).chat(choice.result.tokens), "refusal": None}
        return {
            "index": index,
            "message": message.whole(),
            "logprobs": logprobs,
            "finish_reason": self.reason(choice.generation, message),
        }

    def _growing(self, index: int, generation: Generation) -> Growing:
        scores = Scores(generation) if self._body.logprobs else None
        return _GrowingMessage(self, index, generation, self._talk.message(is_streamed=True), scores)

    def keep(self, message: Message) -> None:
        """Add what was said and the answer, which is whole, to the session, where the request asks for that."""
        session = self._exchange.session
        if self._body.keep_history and session is not None:
            self.model.sessions.keep(session, [*self._body.messages, message.whole()])

    def reason(self, generation: Generation, message: Message) -> str:
        """Why a message ended."""
        reason = finish_reason_of(generation)
        return "tool_calls" if message.has_calls and reason == "stop" and not self._talk.is_named else reason


def _with_history(body: ChatBody, session: Session | None) -> ChatBody:
    """A request that goes on with the conversation of its session.

    Raises:
        RequestError: it has no session, or asks for several answers.
    """
    if session is None:
        hint = "Send X-Amzn-SageMaker-Session-Id: NEW_SESSION, and then the id that the answer's header gives"
        raise RequestError("request.invalid", "keep_history=true needs a session, and the request has none", hint)
    if (body.n or 1) > 1:
        message = f"keep_history=true and n={body.n} exclude each other: one answer goes on"
        raise RequestError("request.invalid", message, "Ask for one answer")
    return body.model_copy(update={"messages": [*session.messages, *body.messages]})


class _GrowingMessage:
    """One choice of a stream.

    Args:
        chat: of which it is one.
        index: among its choices.
        generation: which writes it.
        message: what reads it.
        scores: of its tokens; None where nobody asked for them.
    """

    def __init__(self, chat: Chat, index: int, generation: Generation, message: Message, scores: Scores | None) -> None:
        self._chat, self._index, self._generation = chat, index, generation
        self._message, self._scores = message, scores
        self._is_begun = False

    def pieces(self, tokens: Sequence[TextToken]) -> list[dict[str, Any]]:
        """See ``Growing``."""
        deltas = self._message.add("".join(token.text for token in tokens))
        is_last = bool(self._generation.finish_reason)
        if is_last:
            deltas += self._message.finish()
            self._chat.keep(self._message)
        if not self._is_begun:
            self._is_begun = True
            deltas = [{"role": "assistant", "content": ""}, *deltas]
        if self._scores is None:
            pieces = [self._piece(delta) for delta in deltas]
        else:
            *first, last = deltas or [{}]
            logprobs = {"content": self._scores.chat(tokens), "refusal": None}
            pieces = [*map(self._piece, first), self._piece(last, logprobs)]
        if is_last:
            pieces.append(self._piece({}, reason=self._chat.reason(self._generation, self._message)))
        return pieces

    def _piece(
        self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
