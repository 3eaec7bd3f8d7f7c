# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's answers have in common: choices that grow side by side, counts, probabilities.

Source: OpenAI's API reference.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

import lmi
from lmi.api.errors import LmiError
from lmi.api.texts import TextToken
from lmi.serving.generation import Generation

if TYPE_CHECKING:
    from lmi.serving.choices import Choices
    from lmi.serving.models import Model

_REASONS = {"length": "length", "deadline": "length", "cancelled": "length"}

encoder = msgspec.json.Encoder()


def finish_reason_of(generation: Generation) -> str:
    """In OpenAI's words: what ended by itself, or by a stop sequence, is ``stop``."""
    return _REASONS.get(generation.finish_reason, "stop")


def head_of(kind: str, answer_id: str, model: Model, name: str | None) -> dict[str, Any]:
    """What each object of an answer begins with.

    Args:
        kind: ``object``.
        answer_id: ``id``, the same for all of a stream.
        model: which answers.
        name: as the request names it.
    """
    return {
        "id": answer_id,
        "object": kind,
        "created": int(time.time()),
        "model": name or model.name,
        "system_fingerprint": fingerprint(model),
    }


def fingerprint(model: Model) -> str:
    """The same for answers of the same model under the same options by the same version of LMI."""
    plan = model.plan
    made_of = (lmi.__version__, plan.info.name, plan.artifacts.folder, plan.config.model_dump_json())
    return f"fp_{hashlib.sha256(repr(made_of).encode()).hexdigest()[:10]}"


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


class Scores:
    """Log probabilities of one growing output, token by token.

    Args:
        generation: which keeps its tokens.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._n_told = 0

    def chat(self, tokens: Sequence[TextToken]) -> list[dict[str, Any]]:
        """Of the next tokens, as chat completions have them: the token, and the likeliest in its place."""
        return [
            {**self._chat_entry(token.id, token.logprob), "top_logprobs": [self._chat_entry(*pair) for pair in top]}
            for token, top in zip(tokens, self._tops(tokens), strict=True)
        ]

    def plain(self, tokens: Sequence[TextToken], offset: int) -> dict[str, Any]:
        """Of the next tokens, as completions have them.

        Args:
            tokens: the next ones.
            offset: characters of the text before them.
        """
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._text(each): value for each, value in top} for top in self._tops(tokens)],
            "text_offset": offsets,
        }

    def _tops(self, tokens: Sequence[TextToken]) -> list[Sequence[tuple[int, float]]]:
        first, self._n_told = self._n_told, self._n_told + len(tokens)
        entries = self._generation.logprobs[first : self._n_told]
        return [*(entry.top for entry in entries), *[()] * (len(tokens) - len(entries))]

    def _chat_entry(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        text = self._text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text(self, token_id: int) -> str:
        return self._generation.model.tokenizer.decode([token_id])
