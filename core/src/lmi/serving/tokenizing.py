# SPDX-License-Identifier: Apache-2.0
"""``POST /tokenize`` and ``POST /detokenize``: the ids of a text or of a chat, and the text of ids.

Source: what other servers have under these paths.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Scope

from lmi.serving.bodies import complete, object_of, validated
from lmi.serving.chat_messages import given_kwargs
from lmi.serving.models import Model, known_ids
from lmi.serving.openai import OpenAIRoute
from lmi.serving.parameters import TokenId
from lmi.serving.streaming import Exchange
from lmi.serving.tokenizer import MANY_IDS
from lmi.serving.tools.definitions import Tools
from lmi.threads import aside

_encode = msgspec.json.Encoder().encode


class TokenizeBody(BaseModel):
    """A text, or a chat that the model's template makes one of."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)] | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, data: Any) -> Any:
        return object_of(data)

    @model_validator(mode="after")
    def _is_one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise complete("there must be a prompt or messages, and not both")
        return self

    def text(self, model: Model) -> str:
        """What is encoded.

        Raises:
            RequestError: the chat cannot be rendered.
        """
        if self.messages is None:
            return self.prompt or ""
        return model.speech.template.render(
            self.messages,
            tools=[tool.model_dump(exclude_none=True) for tool in self.tools] if self.tools else None,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            **given_kwargs(self.chat_template_kwargs),
        )


class DetokenizeBody(BaseModel):
    """Ids."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    tokens: list[TokenId] = Field(fail_fast=True)

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, data: Any) -> Any:
        return object_of(data)


class TokenizeRoute(OpenAIRoute):
    """``POST /tokenize``; a chat's template writes the special tokens, so they are not added to it."""

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        model, data = await self._asked(exchange)
        body = validated(TokenizeBody, data)
        adds_special = body.add_special_tokens
        if adds_special is None:
            adds_special = body.messages is None
        ids = await asyncio.to_thread(lambda: model.tokenizer.encode(body.text(model), adds_special=adds_special))
        limits = model.pool.limits
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": None if limits is None else limits.max_context_tokens,
            "tokens": ids,
            "token_strs": None,
        }
        if body.return_token_strs:
            decoder = model.tokenizer.decoder(shows_special=True)
            answer["token_strs"] = await aside(partial(decoder.push, ids), is_long=len(ids) > MANY_IDS)
        await exchange.answer(_encode(answer))


class DetokenizeRoute(OpenAIRoute):
    """``POST /detokenize``."""

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        model, data = await self._asked(exchange)
        given = validated(DetokenizeBody, data).tokens

        def text() -> str:
            decoder = model.tokenizer.decoder(shows_special=True)
            ids = known_ids(given, model.tokenizer.vocab_size)
            return "".join(decoder.push(ids)) + decoder.flush()

        await exchange.answer(_encode({"prompt": await aside(text, is_long=len(given) > MANY_IDS)}))
