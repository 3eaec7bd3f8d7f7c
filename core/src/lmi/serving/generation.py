# SPDX-License-Identifier: Apache-2.0
"""One text request being answered: ids come in from the worker, tokens with text go out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from lmi.api.errors import DeadlineError, LmiError
from lmi.api.requests import Finish, FinishReason, GenerationRequest, TokenChunk, TokenLogprob
from lmi.api.texts import TextRequest, TextResult, TextToken
from lmi.serving.text import OutputText
from lmi.workers.flight import Flight

if TYPE_CHECKING:
    from lmi.serving.models import Model

_REASONS = {
    FinishReason.EOS: "eos_token",
    FinishReason.STOP_TOKEN: "stop_token",
    FinishReason.LENGTH: "length",
    FinishReason.DEADLINE: "deadline",
    FinishReason.CANCELLED: "cancelled",
}


class Generation:
    """The answer to one TextRequest while it grows.

    Args:
        model: which answers.
        request: after all filters.
        engine_request: what the worker gets.
        keeps_tokens: keep every token for ``tokens`` (details of the answer).
    """

    __slots__ = (
        "_chunks",
        "_error",
        "_given",
        "_is_eager",
        "_keeps_tokens",
        "_last_id",
        "_pending",
        "_text",
        "_texts",
        "_waiter",
        "finish_reason",
        "first_token_s",
        "flight",
        "last_token_s",
        "logprobs",
        "model",
        "n_output_tokens",
        "n_writes",
        "prompt_logprobs",
        "request",
        "started_s",
        "tokens",
    )

    def __init__(
        self, model: Model, request: TextRequest, engine_request: GenerationRequest, *, keeps_tokens: bool = False
    ) -> None:
        self.request = request
        self.tokens: list[TextToken] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.finish_reason = ""
        self.n_output_tokens = 0
        self.n_writes = 0
        self.started_s = time.monotonic()
        self.first_token_s = self.last_token_s = 0.0
        self.flight = Flight(engine_request, self._on_chunk, self._on_error)
        self.model = model
        self._keeps_tokens = keeps_tokens
        self._last_id = 0
        self._is_eager = request.stream or bool(request.stop_sequences)
        decoder = model.tokenizer.decoder(engine_request.prompt_ids, shows_special=request.shows_special)
        self._text = OutputText(decoder, request.stop_sequences, keeps_stop=request.keeps_stop)
        self._texts: list[str] = []
        self._chunks: list[TokenChunk] = []
        self._pending: deque[tuple[int, float | None]] = deque()
        self._given: tuple[list[int], list[str]] | None = None
        self._error: LmiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------------------- called from the worker's wire

    def _on_chunk(self, chunk: TokenChunk) -> None:
        if not self.first_token_s and chunk.ids:
            self.first_token_s = time.monotonic()
        if chunk.finish is not None:
            self.last_token_s = time.monotonic()
        self._chunks.append(chunk)
        if self._waiter is not None and (self._is_eager or chunk.finish is not None):
            self._wake()

    def _on_error(self, error: LmiError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ----------------------------------------------------------------------------------------- called by the answer

    def cancel(self, reason: LmiError) -> None:
        """Stop generating; whoever waits for tokens gets the reason."""
        if not self.finish_reason:
            self.model.pool.cancel(self.flight)
            self._on_error(reason)

    def end(self) -> None:
        """Stop generating; nobody waits any more."""
        self.model.pool.cancel(self.flight)

    def give(self, text: str) -> None:
        """Answer with a text that no engine made. Its ids are those the tokenizer has for it, without probabilities."""
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(text)
        if ids and not tokenizer.decode(ids[:1]):  # a beginning-of-text id belongs to prompts
            ids = ids[1:]
        decoder = tokenizer.decoder()
        pieces = decoder.push(ids)
        is_whole = "".join(pieces) + decoder.flush() == text
        # A tokenizer may change a text, by a blank at its beginning, say: then the whole text is one piece.
        self._given = (ids, pieces) if is_whole else (ids[-1:], [text])
        self.first_token_s = time.monotonic()

    async def next(self) -> list[TextToken]:
        """Wait for tokens that may be shown; all that are there. ``finish_reason`` is set with the last ones.

        Raises:
            LmiError: the request failed; what was returned before stands.
        """
        while True:
            if self._given is not None and self._error is None:
                self.finish_reason = "eos_token"
                self.n_output_tokens = len(self._given[0])
                return self._release(self._given[0], [], self._given[1])
            if not self._chunks and self._error is None:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            chunks, self._chunks = self._chunks, []
            if chunks:
                tokens = self._take(chunks)
                if tokens or self.finish_reason:
                    return tokens
            elif self._error is not None:
                raise self._error

    async def result(self) -> TextResult:
        """Wait for the whole answer."""
        while not self.finish_reason:
            await self.next()
        return TextResult(
            text=self.text,
            tokens=self.tokens,
            finish_reason=self.finish_reason,
            n_prompt_tokens=self.n_prompt_tokens,
            n_output_tokens=self.n_output_tokens,
        )

    @property
    def n_prompt_tokens(self) -> int:
        return len(self.flight.request.prompt_ids)

    @property
    def n_longest(self) -> int:
        return self.n_output_tokens

    @property
    def begun_s(self) -> float:
        return self.flight.begun_s

    @property
    def text(self) -> str:
        """The text so far, after all filters."""
        return "".join(self._texts)

    def token_bytes(self, token_id: int, *, shows_special: bool = False) -> bytes:
        """What one token adds to a text like this one, chosen or not; ``shows_special`` where this text does not."""
        return self.model.tokenizer.token_bytes(token_id, shows_special=shows_special or self.request.shows_special)

    # -------------------------------------------------------------------------------------------------- ids to text

    def _take(self, chunks: list[TokenChunk]) -> list[TextToken]:
        ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        for chunk in chunks:
            ids += chunk.ids
            if chunk.logprobs is not None:
                logprobs += chunk.logprobs
            if chunk.prompt_logprobs is not None and self.prompt_logprobs is None:
                self.prompt_logprobs = chunk.prompt_logprobs
        finish = chunks[-1].finish
        is_hidden = finish is not None and bool(ids) and self._hides(finish)
        pieces = self._text.add(ids[:-1] if is_hidden else ids)
        if self._text.stop_sequence is not None:
            self.finish_reason = "stop_sequence"
            if finish is None:
                self.model.pool.cancel(self.flight)
        elif finish is not None:
            if finish.reason is FinishReason.DEADLINE and not self._text.n_ids:
                raise too_late(self.flight.request.deadline_s)
            pieces += self._text.finish(hide_last=is_hidden)
            # The end of a character that was never completed may complete a stop sequence.
            has_stopped = self._text.stop_sequence is not None
            self.finish_reason = "stop_sequence" if has_stopped else _REASONS[finish.reason]
        self.n_output_tokens = self._text.n_ids
        return self._release(ids, logprobs, pieces)

    def _hides(self, finish: Finish) -> bool:
        """Whether the token that ended the output counts, but its text is not shown."""
        return not self.request.keeps_stop and finish.reason in (FinishReason.EOS, FinishReason.STOP_TOKEN)

    def _release(self, ids: list[int], logprobs: list[TokenLogprob], pieces: list[str]) -> list[TextToken]:
        """Give the released pieces of text to the tokens they belong to, in order."""
        self.logprobs += logprobs if self._keeps_tokens else ()
        values: list[float | None] = [entry.logprob for entry in logprobs] if logprobs else [None] * len(ids)
        if self._pending or self.finish_reason or len(pieces) != len(ids):
            pending = self._pending
            pending.extend(zip(ids, values, strict=True))
            n_released = len(pieces)
            if self.finish_reason and self.finish_reason != "stop_sequence":
                n_released = len(pending)
            released = [pending.popleft() for _ in range(min(n_released, len(pending)))]
            ids, values = [token_id for token_id, _ in released], [value for _, value in released]
            pieces = _fitted(pieces, len(ids))
        if self.model.text_filters:
            is_last = bool(self.finish_reason)
            # What a filter held back comes with the last call, even where no token is left to carry it.
            pieces = self.model.filter_pieces(self.request, pieces or [""] * is_last, is_last=is_last)
        self._texts += pieces
        tokens = list(map(TextToken, ids, pieces, values))
        if self._keeps_tokens:
            self.tokens += tokens
        if not tokens and any(pieces):
            return [self._rest("".join(pieces))]
        self._last_id = tokens[-1].id if tokens else self._last_id
        return tokens

    def _rest(self, text: str) -> TextToken:
        """What carries text that came to light when all tokens had been given: the last of them, once more.

        That is the end of a character that was never completed, or what a filter held back. It counts no second time.
        """
        if self.tokens:
            last = self.tokens[-1]
            self.tokens[-1] = msgspec.structs.replace(last, text=last.text + text)
        return TextToken(self._last_id, text)


def too_late(limit_s: float | None) -> DeadlineError:
    """What a request gets whose time ran out before its first token."""
    return DeadlineError(
        "request.deadline",
        f"the request's time of {limit_s or 0:g} s ran out before its first token",
        "Send it again when less is going on, or raise deadline_s or predict_timeout, whichever said so",
    )


def _fitted(pieces: list[str], n_tokens: int) -> list[str]:
    """As many pieces as tokens: what an incomplete character leaves at the end belongs to the last token."""
    if len(pieces) > n_tokens > 0:
        return [*pieces[: n_tokens - 1], "".join(pieces[n_tokens - 1 :])]
    return pieces + [""] * (n_tokens - len(pieces))
