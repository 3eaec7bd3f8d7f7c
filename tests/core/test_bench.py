# SPDX-License-Identifier: Apache-2.0
"""What lmi bench makes of what it hears: streams, levels, advice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ConfigError
from lmi.bench.advice import advice
from lmi.bench.hearing import Hearing
from lmi.bench.levels import Level, counted, quantiles
from lmi.bench.metrics import ServerSeen, parsed
from lmi.bench.words import Words, prompts_of

LMI = (
    b'{"token":{"id":1,"text":"a\\ndata: b"}}\n{"token":{"id":2,"text":"b"}}\n'
    b'{"token":{"id":3,"text":""},"generated_text":"ab"}\n'
)
CHAT = (
    b": a comment\r\n\r\n"
    b'event: message\ndata: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{"content":"gr\xc3\xbc"}}]}\r\n\r\n'
    b'data:{"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)


def hear(*parts: bytes) -> Hearing:
    hearing = Hearing()
    for part in parts:
        hearing.add(part)
    hearing.end()
    return hearing


@pytest.mark.parametrize(
    ("stream", "n_pieces", "n_tokens", "n_prompt_tokens"),
    [(LMI, 3, 3, None), (LMI[:-1], 3, 3, None), (CHAT, 2, 5, 9)],
    ids=["json-lines", "no-last-newline", "events"],
)
@pytest.mark.parametrize("n_bytes", [1, 2, 7, 1000])
def test_a_stream_is_heard_alike_wherever_it_is_cut(
    stream: bytes, n_pieces: int, n_tokens: int, n_prompt_tokens: int | None, n_bytes: int
) -> None:
    heard = hear(*(stream[at : at + n_bytes] for at in range(0, len(stream), n_bytes)))
    assert (heard.n_pieces, heard.n_tokens, heard.n_prompt_tokens) == (n_pieces, n_tokens, n_prompt_tokens)
    assert heard.error is None
    assert heard.sent_s <= heard.arrivals_s[0] <= heard.arrivals_s[-1] <= heard.ended_s


def test_tokens_of_one_read_have_one_moment() -> None:
    assert len(hear(LMI).arrivals_s) == 1
    assert len(hear(*LMI.splitlines(keepends=True)).arrivals_s) == 3


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (LMI + b'{"code":500,"error":"engine.died","message":"engine.died: gone"}\n', "engine.died"),
        (b'data: {"error":{"message":"gone","code":"engine.died"}}\n\n', "engine.died"),
        (b'{"generated_text":"all at once"}', "client.no-tokens"),
        (b"", "client.no-tokens"),
        (b'data: {"choices\n\n', "client.not-json"),
    ],
)
def test_a_stream_that_ends_with_an_error_or_has_no_tokens_failed(stream: bytes, code: str) -> None:
    heard = hear(stream)
    assert heard.error is not None
    assert heard.error[0] == code


def hearing(sent_s: float, arrivals_s: Sequence[float], n_tokens: int, error: str = "") -> Hearing:
    heard = Hearing()
    heard.sent_s, heard.arrivals_s, heard.ended_s = sent_s, [*arrivals_s], max(arrivals_s, default=sent_s)
    heard.n_told_tokens = n_tokens
    heard.error = (error, f"about {error}") if error else None
    return heard


def test_a_level_is_counted_of_the_answers_and_failures_count_as_such_alone() -> None:
    level = counted(
        [
            hearing(10, [11, 12, 14], 6),
            hearing(10, [13], 2),
            hearing(10, [], 0, "queue.full"),
            hearing(18, [], 0, "queue.full"),
            hearing(10, [10.5], 1, "engine.died"),
        ],
        2,
    )
    assert (level.n_requests, level.n_errors, level.errors) == (5, 3, {"queue.full": 2, "engine.died": 1})
    assert (level.duration_s, level.requests_per_s, level.tokens_per_s) == (8, 0.25, 1)
    assert level.first_token_s == {"p50": 1, "p90": 3, "p99": 3}
    assert level.gap_s == {"p50": 1, "p90": 2, "p99": 2}
    assert (level.n_tokens, level.tokens_per_arrival) == (8, 2)
    assert level.messages["engine.died"] == "about engine.died"


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantiles(range(1, 201)) == {"p50": 100, "p90": 180, "p99": 198}
    assert quantiles([]) == {"p50": None, "p90": None, "p99": None}


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# HELP a b\na{worker="x y"} 2.0\na{worker="}"} 1.5 1700000000\nb_total 4\nnot a metric\n'
    found = parsed(text.replace(" 1700000000", ""))
    assert (found["a"], found["b_total"]) == (3.5, 4)


# --------------------------------------------------------------------------------------------------------------- advice


def level(n_at_once: int, tokens_per_s: float, **more: Any) -> Level:
    plain: dict[str, Any] = {
        "n_at_once": n_at_once, "n_requests": 100, "n_errors": sum(more.get("errors", {}).values()), "errors": {},
        "duration_s": 1.0, "requests_per_s": 1.0, "tokens_per_s": tokens_per_s, "n_tokens": 1, "is_by_pieces": False,
        "first_token_s": {"p50": 0.1, "p90": 0.1, "p99": 0.1}, "gap_s": {"p50": 0.01, "p90": 0.01, "p99": 0.01},
        "tokens_per_arrival": 1.0, "prompt_tokens": None,
    }  # fmt: skip
    return Level(**{**plain, **more})


BUSY = ServerSeen(n_waiting_peak=24, n_running_peak=8, n_samples=9)
IDLE = ServerSeen(n_running_peak=32, n_samples=9)
FULL = ServerSeen(n_waiting_peak=5, n_running_peak=8, cache_share_peak=0.99)
UNEVEN = {"p50": 0.01, "p90": 0.01, "p99": 0.2}


@pytest.mark.parametrize(
    ("levels", "option", "said"),
    [
        ([level(1, 10), level(32, 50, errors={"queue.full": 7})], "job_queue_size", "7 of 100 requests at 32"),
        ([level(1, 10, errors={"http.429": 1})], "job_queue_size", "1 of 100"),
        ([level(1, 10, errors={"request.deadline": 2})], "predict_timeout", "2 of 100"),
        ([level(1, 10, errors={"http.507": 2})], "option.max_rolling_batch_size", "lower it"),
        ([level(1, 10, errors={"engine.died": 2}, messages={"engine.died": "gone"})], "", "engine.died: gone"),
        ([level(1, 10, server=ServerSeen(n_deaths=1), errors={"queue.full": 7})], "", "1 workers died"),
        ([level(1, 10, client_cpu_share=0.99)], "", "99% of a core"),
        ([level(1, 10), level(8, 60), level(32, 61, server=FULL)], "option.tensor_parallel_degree", "99% full"),
        ([level(1, 10), level(8, 60), level(32, 61, server=BUSY)], "option.max_rolling_batch_size", "flat from 8"),
        ([level(32, 61, server=BUSY), level(8, 60), level(1, 10)], "option.max_rolling_batch_size", "24 requests"),
        ([level(8, 60, server=BUSY)], "option.max_rolling_batch_size", "no more than 8 ran"),
        ([level(1, 10), level(8, 60), level(32, 61, server=IDLE)], "option.tensor_parallel_degree", "nothing waited"),
        ([level(1, 10), level(8, 60), level(32, 61)], "option.tensor_parallel_degree", "does not say what waits"),
        ([level(1, 10), level(8, 60), level(32, 180, server=BUSY)], "", "--at-once 64 128"),
        ([level(1, 10)], "", "--at-once 2 4"),
        ([level(1, 9), level(8, 60, gap_s=UNEVEN)], "option.max_rolling_batch_prefill_tokens", "200 ms"),
        ([level(1, 10, gap_s=UNEVEN)], "", "--at-once 2 4"),
    ],
)
def test_the_next_option_follows_from_what_was_seen(levels: list[Level], option: str, said: str) -> None:
    found = advice(levels, input_tokens=512)
    assert found.option == option
    assert said in found.sentence


def test_short_prompts_are_not_what_holds_streams_up() -> None:
    assert advice([level(1, 9), level(8, 60, gap_s=UNEVEN)], input_tokens=64).option == ""


# -------------------------------------------------------------------------------------------------------------- prompts


def test_words_are_the_same_for_one_seed_and_as_many_as_the_tokenizer_asks_for() -> None:
    words, again, other = Words(7, 60), Words(7, 60), Words(8, 60)
    first = next(iter(words))
    assert first == next(iter(again)) != next(iter(other))
    assert len(first.split()) == 60
    words.learn(first, 180)
    texts = [text for text, _ in zip(words, range(50), strict=False)]
    assert {len(text.split()) for text in texts} == {20}
    assert len({text[:30] for text in texts}) == 50


def test_prompts_of_a_file_come_over_and_over(tmp_path: Path) -> None:
    lines = ['"a"', '{"inputs": "b", "parameters": {}}', "", '{"prompt": "c"}', '{"messages": [{"role": "user"}]}']
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(lines))
    prompts = prompts_of(file)
    assert [next(prompts) for _ in range(5)] == ["a", "b", "c", [{"role": "user"}], "a"]


@pytest.mark.parametrize("text", ["", "no json", json.dumps({"text": "a"}), "3", '{"inputs": ""}'])
def test_a_file_without_prompts_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        prompts_of(file)
    assert caught.value.code == "bench.bad-prompts"
    assert str(file) in str(caught.value)
