# SPDX-License-Identifier: Apache-2.0
"""Several answers and beams behind real HTTP, on a tiny random Llama; a killed worker changes none of them."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.serving.tokenizer import FileTokenizer
from lmi.testing import write_tiny
from tests.servers import ServerProcess, busy, killed_under, serve

DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "seed": 11, "max_new_tokens": 24, "details": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "retry_threshold=100")
    with serve(str(folder), *(part for option in options for part in ("-o", option))) as running:
        yield running


def sequences(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers, the best first, each with its text and its tokens."""
    details = dict(answer["details"])
    others = details.pop("best_of_sequences", [])
    return [{"generated_text": answer["generated_text"], **details}, *others]


def ids_of(answer: dict[str, Any]) -> list[list[int]]:
    """Log probabilities may differ in their last bits, as batches do; ids do not."""
    return [[token["id"] for token in each["tokens"]] for each in sequences(answer)]


def test_each_of_several_answers_is_what_its_seed_gives_alone(server: ServerProcess) -> None:
    found = sequences(server.generate("Once", n=3, **DRAWN))
    assert [each["seed"] for each in found] == [11, 12, 13]
    for each in found:
        alone = server.generate("Once", **{**DRAWN, "seed": each["seed"]})
        assert ids_of(alone) == [[token["id"] for token in each["tokens"]]]
        assert each["generated_text"] == alone["generated_text"]
        assert (each["finish_reason"], each["generated_tokens"]) == ("length", 24)


def test_the_best_of_several_candidates_are_answers_and_the_rest_is_not_shown(server: ServerProcess) -> None:
    def mean(sequence: dict[str, Any]) -> float:
        logprobs = [token["log_prob"] for token in sequence["tokens"]]
        return sum(logprobs) / len(logprobs)

    every = sorted(sequences(server.generate("Once", n=5, **DRAWN)), key=mean, reverse=True)
    best = sequences(server.generate("Once", n=2, best_of=5, **DRAWN))
    assert [each["seed"] for each in best] == [each["seed"] for each in every[:2]]


def test_without_details_further_answers_come_without_tokens(server: ServerProcess) -> None:
    answer = server.generate("Once", n=2, **{**DRAWN, "details": False})
    assert answer["details"].keys() == {"finish_reason", "generated_tokens", "seed", "best_of_sequences"}
    [other] = answer["details"]["best_of_sequences"]
    assert other.keys() == {"generated_text", "finish_reason", "generated_tokens", "seed"}
    assert server.generate("Once", best_of=2, **{**DRAWN, "details": False}).keys() == {"generated_text"}


def test_a_worker_killed_under_candidates_and_beams_changes_no_answer(server: ServerProcess) -> None:
    calls = [
        lambda: server.generate("Once", n=3, **{**DRAWN, "max_new_tokens": 150}),
        lambda: server.generate("upon", num_beams=3, n=3, max_new_tokens=60, details=True, ignore_eos_token=True),
    ]
    expected = [call() for call in calls]
    found, pid = killed_under(server, calls, busy(4))
    assert list(map(ids_of, found)) == list(map(ids_of, expected))
    assert server.worker_pids() != [pid]
    assert list(map(len, map(ids_of, expected))) == [3, 3]


@pytest.mark.long
def test_bad_words_do_not_come_and_stay_away_after_a_crash(server: ServerProcess, folder: Path) -> None:
    tokenizer = FileTokenizer(folder / "tokenizer.json", {})
    letters = {letter: tokenizer.encode(letter)[0] for letter in string.ascii_lowercase}
    asked: dict[str, Any] = {"max_new_tokens": 400, "details": True}
    asked["logit_bias"] = {str(token_id): 50.0 for token_id in letters.values()}
    plain = server.generate("Once", **asked)["generated_text"]
    # A word in the pieces that its tokenizer gives it: of others, it is not spelt here.
    spelt = ["".join(pair) for pair in itertools.pairwise(plain)]
    asked["bad_words"] = sorted({word for word in spelt if len(tokenizer.encode(word)) == 2})[:40]
    expected = server.generate("Once", **asked)
    assert set(spelt) & set(asked["bad_words"])
    assert not [word for word in asked["bad_words"] if word in expected["generated_text"]]
    assert set(expected["generated_text"]) <= set(letters)
    [found], _ = killed_under(server, [lambda: server.generate("Once", **asked)], busy(1))
    assert ids_of(found) == ids_of(expected)


def test_log_probabilities_of_the_prompt_come_with_the_likely_tokens_in_its_places(server: ServerProcess) -> None:
    details = server.generate("Once", max_new_tokens=1, prompt_logprobs=2)["details"]
    first, *others = details["prefill_top_tokens"]
    assert first == []
    assert [len(each) for each in others] == [2] * (len(details["prefill"]) - 1)
    assert all(each[0]["log_prob"] >= each[1]["log_prob"] for each in others)


def test_special_tokens_are_shown_where_they_are_asked_for(server: ServerProcess) -> None:
    details = server.generate("Once", max_new_tokens=1, details=True, logit_bias={"256": 100.0})["details"]
    assert details["tokens"][0]["text"] == ""
    shown = server.generate("Once", max_new_tokens=1, skip_special_tokens=False, logit_bias={"256": 100.0})
    assert shown["generated_text"] == "<s>"
