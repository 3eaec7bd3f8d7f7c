# SPDX-License-Identifier: Apache-2.0
"""One answer while it grows: ids from the worker become tokens with text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lmi.api import (
    DeadlineError,
    EngineDeadError,
    Finish,
    FinishReason,
    GenerationRequest,
    RefusedError,
    SamplingParams,
    TextRequest,
    TextToken,
    TokenChunk,
    TokenLogprob,
)
from lmi.serving.generation import Generation
from lmi.serving.models import Model
from lmi.serving.tokenizer import ByteTokenizer
from lmi.workers.flight import Flight
from tests.limits import limit_s

LENGTH = Finish(FinishReason.LENGTH)


class CancelledPool:
    """Keeps what was cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[Flight] = []

    def cancel(self, flight: Flight) -> None:
        self.cancelled.append(flight)


class ByteModel:
    """What a generation needs of a model, with one token a byte."""

    filter_pieces = Model.filter_pieces

    def __init__(self, *text_filters: Callable[..., Any]) -> None:
        self.tokenizer = ByteTokenizer()
        self.text_filters = text_filters
        self.pool = CancelledPool()


class Rig:
    def __init__(
        self,
        *,
        stop: tuple[str, ...] = (),
        stream: bool = True,
        keeps_tokens: bool = False,
        filters: tuple[Any, ...] = (),
        **fields: Any,
    ) -> None:
        sampling = SamplingParams(max_tokens=100)
        request = TextRequest(
            request_id="r", model="model", prompt="xy", sampling=sampling, stop_sequences=stop, stream=stream, **fields
        )
        inner = GenerationRequest(request_id="r", prompt_ids=[120, 121], sampling=sampling, deadline_s=2.5)
        self.model: Any = ByteModel(*filters)
        self.generation = Generation(self.model, request, inner, keeps_tokens=keeps_tokens)

    def arrive(self, text: str, finish: Finish | None = None, logprob: float | None = None) -> None:
        ids = list(text.encode())
        logprobs = None if logprob is None else [TokenLogprob(token_id, logprob) for token_id in ids]
        self.generation.flight.on_chunk(TokenChunk(ids, logprobs, finish=finish))

    async def texts(self) -> list[str]:
        return [token.text for token in await self.generation.next()]


def play(scenario: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(Rig(**options)), limit_s(10))

    asyncio.run(main())


def test_tokens_that_are_there_come_together_and_later_ones_are_waited_for() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a")
        rig.arrive("bc")
        assert await rig.texts() == ["a", "b", "c"]
        waiting = asyncio.ensure_future(rig.texts())
        await asyncio.sleep(0)
        assert not waiting.done()
        rig.arrive("d", LENGTH)
        assert await waiting == ["d"]
        assert (rig.generation.finish_reason, rig.generation.text) == ("length", "abcd")
        assert rig.generation.n_output_tokens == 4

    play(scenario)


def test_a_token_carries_id_text_and_log_probability() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a", LENGTH, logprob=-0.25)
        assert await rig.generation.next() == [TextToken(97, "a", -0.25)]

    play(scenario)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (FinishReason.EOS, "eos_token"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.STOP_TOKEN, "stop_token"),
        (FinishReason.DEADLINE, "deadline"),
    ],
)
def test_the_reason_has_the_name_of_lmis_schema(reason: FinishReason, name: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("ab", Finish(reason))
        assert (await rig.generation.result()).finish_reason == name

    play(scenario)


def test_the_beginning_of_a_stop_sequence_is_held_until_it_is_decided() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("ab")
        assert await rig.texts() == ["a"]
        rig.arrive("x")
        assert await rig.texts() == ["b", "x"]
        rig.arrive("bc!")
        assert await rig.texts() == ["", ""]
        generation = rig.generation
        assert (generation.finish_reason, generation.text, generation.n_output_tokens) == ("stop_sequence", "abx", 5)

    play(scenario, stop=("bc",))


def test_tokens_held_at_the_end_are_given_with_their_own_text_and_log_probability() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a", logprob=-1.0)
        rig.arrive("b", logprob=-2.0)
        rig.arrive("c", LENGTH, logprob=-3.0)
        tokens = await rig.generation.next()
        assert tokens == [TextToken(97, "a", -1.0), TextToken(98, "b", -2.0), TextToken(99, "c", -3.0)]

    play(scenario, stop=("abcd",))


def test_a_stop_sequence_ends_the_work_in_the_worker_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a.b")
        await rig.generation.next()
        assert rig.model.pool.cancelled == [rig.generation.flight]

    play(scenario, stop=(".",))


def test_a_stop_sequence_in_the_last_chunk_has_nothing_left_to_cancel() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a.b", LENGTH)
        await rig.generation.next()
        assert (rig.generation.finish_reason, rig.model.pool.cancelled) == ("stop_sequence", [])

    play(scenario, stop=(".",))


@pytest.mark.parametrize("stop", [(), ("z",), ("bc.",)])
def test_a_stop_token_is_counted_and_its_text_is_hidden(stop: tuple[str, ...]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("ab")
        rig.arrive("c", Finish(FinishReason.STOP_TOKEN, 99))
        result = await rig.generation.result()
        assert (result.text, result.n_output_tokens) == ("ab", 3)
        assert [(token.id, token.text) for token in result.tokens] == [(97, "a"), (98, "b"), (99, "")]

    play(scenario, stop=stop, keeps_tokens=True)


@pytest.mark.parametrize(
    ("reason", "fields", "text"),
    [
        (FinishReason.STOP_TOKEN, {}, "ab"),
        (FinishReason.STOP_TOKEN, {"keeps_stop": True}, "abc"),
        (FinishReason.EOS, {}, "ab"),  # whether its tokenizer calls it special or not
        (FinishReason.EOS, {"shows_special": True}, "ab"),
        (FinishReason.EOS, {"shows_special": True, "keeps_stop": True}, "abc"),
        (FinishReason.LENGTH, {"shows_special": True}, "abc"),
    ],
)
def test_the_token_that_ends_a_text_is_shown_where_it_is_kept(
    reason: FinishReason, fields: dict[str, Any], text: str
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("abc", Finish(reason, 99))
        result = await rig.generation.result()
        assert (result.text, result.n_output_tokens) == (text, 3)

    play(scenario, **fields)


def test_without_a_stream_nobody_is_woken_before_the_end() -> None:
    async def scenario(rig: Rig) -> None:
        waiting = asyncio.ensure_future(rig.generation.result())
        await asyncio.sleep(0)
        for letter in "abc":
            rig.arrive(letter)
            await asyncio.sleep(0)
        assert rig.generation.n_output_tokens == 0, "no text was made yet"
        rig.arrive("d", LENGTH)
        result = await waiting
        assert (result.text, result.tokens) == ("abcd", [])
        assert (result.n_prompt_tokens, result.n_output_tokens) == (2, 4)

    play(scenario, stream=False)


def test_with_stop_sequences_a_plain_answer_is_looked_at_as_it_grows() -> None:
    async def scenario(rig: Rig) -> None:
        waiting = asyncio.ensure_future(rig.generation.result())
        await asyncio.sleep(0)
        rig.arrive("ab.c")  # no finish: the worker knows of no stop sequence
        assert (await waiting).text == "ab"
        assert len(rig.model.pool.cancelled) == 1

    play(scenario, stream=False, stop=(".",))


def test_a_deadline_before_the_first_token_is_an_error_that_names_the_limit() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("", Finish(FinishReason.DEADLINE))
        with pytest.raises(DeadlineError, match=r"time of 2\.5 s ran out"):
            await rig.generation.next()

    play(scenario)


def test_a_deadline_after_the_first_token_ends_the_text() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a")
        assert await rig.texts() == ["a"]
        rig.arrive("", Finish(FinishReason.DEADLINE))
        assert await rig.texts() == []
        assert (rig.generation.finish_reason, rig.generation.text) == ("deadline", "a")

    play(scenario)


def test_what_came_before_a_failure_is_given_before_the_failure() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("ab")
        rig.generation.flight.on_error(EngineDeadError("engine.died", "gone"))
        assert await rig.texts() == ["a", "b"]
        with pytest.raises(EngineDeadError, match="gone"):
            await rig.generation.next()

    play(scenario)


def test_a_failure_wakes_whoever_waits() -> None:
    async def scenario(rig: Rig) -> None:
        waiting = asyncio.ensure_future(rig.generation.next())
        await asyncio.sleep(0)
        rig.generation.flight.on_error(EngineDeadError("engine.died", "gone"))
        with pytest.raises(EngineDeadError, match="gone"):
            await waiting

    play(scenario)


def test_cancelling_tells_the_pool_and_whoever_waits() -> None:
    async def scenario(rig: Rig) -> None:
        waiting = asyncio.ensure_future(rig.generation.next())
        await asyncio.sleep(0)
        rig.generation.cancel(RefusedError("x", "the client left"))
        with pytest.raises(RefusedError, match="the client left"):
            await waiting
        assert rig.model.pool.cancelled == [rig.generation.flight]

    play(scenario)


def test_cancelling_what_is_finished_does_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a", LENGTH)
        await rig.generation.next()
        rig.generation.cancel(RefusedError("x", "the client left"))
        assert rig.model.pool.cancelled == []

    play(scenario)


# ------------------------------------------------------------------------------------------------------------ filters


class Shouting:
    """Writes in capitals, one piece late; notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.held = ""

    def __call__(self, *, request: TextRequest, text: str, is_last: bool) -> str:
        self.calls.append((text, is_last))
        given, self.held = self.held, text.upper()
        return given + self.held if is_last else given


def test_filters_see_every_piece_in_order_and_the_last_is_marked() -> None:
    shouting = Shouting()

    async def scenario(rig: Rig) -> None:
        rig.arrive("ab")
        assert await rig.texts() == ["", "A"]
        rig.arrive("c", LENGTH)
        assert await rig.texts() == ["BC"]
        assert rig.generation.text == "ABC"

    play(scenario, filters=(shouting,))
    assert shouting.calls == [("a", False), ("b", False), ("c", True)]


def test_each_filter_gets_what_the_one_before_it_made_and_none_leaves_it() -> None:
    def silent(*, request: TextRequest, text: str, is_last: bool) -> None:
        return None

    def dotted(*, request: TextRequest, text: str, is_last: bool) -> str:
        return text + "."

    async def scenario(rig: Rig) -> None:
        rig.arrive("ab", LENGTH)
        assert await rig.texts() == ["", "A.B.."]

    # dotted makes "a." and "b."; shouting holds each back by one piece.
    play(scenario, filters=(silent, dotted, Shouting(), lambda *, request, text, is_last: text + "." * is_last))


@pytest.mark.parametrize("end", [FinishReason.DEADLINE, FinishReason.LENGTH])
def test_text_a_filter_holds_comes_even_when_the_last_chunk_has_no_token(end: FinishReason) -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("ab")
        await rig.generation.next()
        rig.arrive("", Finish(end))
        await rig.generation.next()
        assert rig.generation.text == "AB"

    play(scenario, filters=(Shouting(),))


def test_a_filter_that_refuses_reaches_whoever_waits() -> None:
    def refuse(*, request: TextRequest, text: str, is_last: bool) -> str:
        raise RefusedError("guard.refused", "not that word")

    async def scenario(rig: Rig) -> None:
        rig.arrive("a")
        with pytest.raises(RefusedError, match="not that word"):
            await rig.generation.next()

    play(scenario, filters=(refuse,))


def given(rig: Rig, text: str) -> tuple[list[str], str, int]:
    """Pieces, text and token count of an answer that no engine made."""

    async def run() -> list[str]:
        rig.generation.give(text)
        pieces = await rig.texts()
        assert rig.generation.finish_reason == "eos_token"
        return pieces

    return asyncio.run(run()), rig.generation.text, rig.generation.n_output_tokens


@pytest.mark.parametrize("text", ["abc", "größer", ""])
def test_a_given_answer_comes_token_by_token(text):
    pieces, whole, n_tokens = given(Rig(), text)
    assert ("".join(pieces), whole, n_tokens) == (text, text, len(text.encode()))


def test_a_given_answer_goes_through_the_text_filters():
    pieces, whole, _ = given(Rig(filters=(lambda request, text, is_last: text.upper() + "!" * is_last,)), "ab")
    assert (pieces, whole) == (["A", "B!"], "AB!")


def test_a_given_answer_whose_text_the_tokenizer_would_change_is_one_piece():
    class Lossy(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.lower())

    rig = Rig()
    rig.model.tokenizer = Lossy()
    assert given(rig, "ABC") == (["ABC"], "ABC", 1)
