# SPDX-License-Identifier: Apache-2.0
"""The backend `hf` behind real HTTP, in real processes, on a tiny random Llama and on the demo model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess, eventually, in_threads, serve
from tests.tiny import write_tiny_llama

SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "seed": 7}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("Once upon a time", {}),
    ("a", {"max_new_tokens": 5}),
    ("The quick brown fox jumps over the lazy dog. " * 4, SAMPLED),
    ("Hello", {**SAMPLED, "seed": 8, "top_k": 20}),
    ("One, two, three", {"repetition_penalty": 1.3, "max_new_tokens": 60}),
    ("penalties", {**SAMPLED, "presence_penalty": 0.5, "frequency_penalty": 0.5}),
    ("typical", {"do_sample": True, "typical_p": 0.8, "seed": 9}),
    ("min", {"do_sample": True, "min_p": 0.05, "seed": 10, "max_new_tokens": 33}),
]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    write_tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def server(tiny_llama: Path) -> Iterator[ServerProcess]:
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "retry_threshold=100")
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as running:
        yield running


def tokens(server: ServerProcess, prompt: str, **parameters: Any) -> list[int]:
    parameters = {"max_new_tokens": 250, "ignore_eos_token": True, **parameters}
    return [line["token"]["id"] for line in server.stream(prompt, **parameters)]


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> list[list[int]]:
    """The tokens of each request when it is alone."""
    return [tokens(server, prompt, **parameters) for prompt, parameters in REQUESTS]


def together(server: ServerProcess, *others: Any) -> list[list[int]]:
    calls = [lambda p=prompt, k=parameters: tokens(server, p, **k) for prompt, parameters in REQUESTS]
    return in_threads([*calls, *others])[: len(calls)]


def test_requests_that_run_together_give_the_tokens_they_give_alone(
    server: ServerProcess, expected: list[list[int]]
) -> None:
    assert together(server) == expected


def test_a_killed_worker_under_running_streams_loses_none_and_changes_no_token(
    server: ServerProcess, expected: list[list[int]]
) -> None:
    [pid] = server.worker_pids()

    def kill() -> None:
        eventually(lambda: server.workers() and server.workers()[0]["n_requests"] >= 4, 30)
        os.kill(pid, signal.SIGKILL)

    assert together(server, kill) == expected
    assert server.worker_pids() != [pid]


def test_forty_clients_share_eight_slots_and_all_get_their_answer(server: ServerProcess) -> None:
    prompts = [f"client number {index}" for index in range(40)]
    calls = [lambda p=prompt: tokens(server, p, max_new_tokens=12) for prompt in prompts]
    answers = in_threads(calls)
    assert [len(answer) for answer in answers] == [12] * 40
    assert answers[::13] == [tokens(server, prompt, max_new_tokens=12) for prompt in prompts[::13]]


def test_requests_of_a_killed_copy_go_on_at_once_on_the_other(tiny_llama: Path, expected: list[list[int]]) -> None:
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "minWorkers=2")
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as copies:
        eventually(lambda: [worker["state"] for worker in copies.workers()] == ["ready", "ready"], 60)
        survivors: list[int] = []

        def kill() -> None:
            busy = eventually(lambda: [w["pid"] for w in copies.workers() if w["n_requests"] >= 2][:2], 30)
            survivors.extend(pid for pid in copies.worker_pids() if pid != busy[0])
            os.kill(busy[0], signal.SIGKILL)

        assert together(copies, kill) == expected
        assert set(survivors) <= set(copies.worker_pids())


def test_a_cache_too_small_for_all_preempts_and_recomputes_without_changing_a_token(
    tiny_llama: Path, expected: list[list[int]]
) -> None:
    # 512 bytes a token (2 layers, keys and values, 2 heads of 16, fp32): room for 600 tokens, the requests want 2000.
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "kv_cache_memory_bytes=307200")
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as small:
        assert together(small) == expected
        with small.client() as client:
            metrics = client.get("/metrics").text
        assert 'lmi_kv_total_tokens{model="model",worker="model/0"} 600.0' in metrics


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(server: ServerProcess) -> None:
    response = server.post({"inputs": "long " * 1000, "parameters": {"max_new_tokens": 5}})
    assert response.status_code == 400
    assert "this model takes 512" in response.json()["message"]
    assert "request.too-long: prompt" in response.json()["message"]


def test_details_have_log_probabilities_of_the_prompt_and_the_most_likely_tokens(server: ServerProcess) -> None:
    answer = server.generate("Hello", max_new_tokens=4, details=True, decoder_input_details=True, top_n_tokens=3)
    details = answer["details"]
    assert [len(top) for top in details["top_tokens"]] == [3] * 4
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert top[0]["id"] == token["id"], "greedy: the token is the most likely one"
        assert top[0]["log_prob"] == pytest.approx(token["log_prob"], abs=1e-5)
    assert "log_prob" not in details["prefill"][0]
    assert all(token["log_prob"] < 0 for token in details["prefill"][1:])


def test_a_folder_with_three_faults_is_refused_with_all_three_before_anything_is_loaded(tmp_path: Path) -> None:
    with serve(str(tmp_path), "-o", "rolling_batch=hf", is_ready=False) as server:
        (tmp_path / "notes.txt").write_text("not a model")
        code = server.wait_for_end(30)
    assert code != 0
    assert "nothing was loaded" in server.output
    for problem in ("config.missing", "weights.missing", "tokenizer.missing"):
        assert problem in server.output


@pytest.mark.model
def test_the_demo_model_knows_the_capital_of_france(demo_model: Path) -> None:
    with serve(str(demo_model), "-o", "rolling_batch=hf") as server:
        answer = server.generate("The capital of France is", max_new_tokens=8)
        assert "Paris" in answer["generated_text"]
        lines = list(server.stream("The capital of France is", max_new_tokens=8))
        assert lines[-1]["generated_text"] == answer["generated_text"]
        assert "".join(line["token"]["text"] for line in lines) == answer["generated_text"]


@pytest.mark.long
@pytest.mark.model
def test_the_demo_model_survives_a_killed_worker_with_the_same_tokens(demo_model: Path) -> None:
    prompts = [f"Tell me {index} facts about the sea" for index in range(8)]

    def run(server: ServerProcess, *others: Any) -> list[Any]:
        calls = [
            lambda i=i, p=prompt: tokens(server, p, max_new_tokens=24, **({**SAMPLED, "seed": i} if i % 2 else {}))
            for i, prompt in enumerate(prompts)
        ]
        return in_threads([*calls, *others])[:8]

    with serve(str(demo_model), "-o", "rolling_batch=hf", "-o", "dtype=fp32") as server:
        expected = run(server)
        [pid] = server.worker_pids()

        def kill() -> None:
            eventually(lambda: server.workers() and server.workers()[0]["n_requests"] == 8, 60)
            os.kill(pid, signal.SIGKILL)

        assert run(server, kill) == expected
        assert server.worker_pids() != [pid]
