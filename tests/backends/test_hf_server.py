# SPDX-License-Identifier: Apache-2.0
"""The backend `hf` behind real HTTP, in real processes, on a tiny random Llama and on the demo model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from tests.servers import ServerProcess, busy, eventually, in_threads, killed_under, serve
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
    ("letters", {**SAMPLED, "guided_regex": "([a-z]{2,9} )+", "max_new_tokens": 120}),
    ("list", {"guided_json": {"type": "array", "items": {"type": "integer"}}, "max_new_tokens": 60}),
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


def test_a_start_says_nothing_of_kernels_for_other_devices(server: ServerProcess) -> None:
    """Libraries that are imported with transformers, and not needed."""
    assert not [line for line in server.lines if "torchao" in line or "triton" in line or "_pytree" in line]


def calls_of(server: ServerProcess) -> list[Any]:
    return [lambda p=prompt, k=parameters: tokens(server, p, **k) for prompt, parameters in REQUESTS]


def test_requests_that_run_together_give_the_tokens_they_give_alone(
    server: ServerProcess, expected: list[list[int]]
) -> None:
    assert in_threads(calls_of(server)) == expected


def test_a_killed_worker_under_running_streams_loses_none_and_changes_no_token(
    server: ServerProcess, expected: list[list[int]]
) -> None:
    found, pid = killed_under(server, calls_of(server), busy(4))
    assert found == expected
    assert server.worker_pids() != [pid]


def test_forty_clients_share_eight_slots_and_all_get_their_answer(server: ServerProcess) -> None:
    prompts = [f"client number {index}" for index in range(40)]
    calls = [lambda p=prompt: tokens(server, p, max_new_tokens=12) for prompt in prompts]
    answers = in_threads(calls)
    assert [len(answer) for answer in answers] == [12] * 40
    assert answers[::13] == [tokens(server, prompt, max_new_tokens=12) for prompt in prompts[::13]]


@pytest.mark.long
def test_requests_of_a_killed_copy_go_on_at_once_on_the_other(tiny_llama: Path, expected: list[list[int]]) -> None:
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "minWorkers=2")
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as copies:
        eventually(lambda: [worker["state"] for worker in copies.workers()] == ["ready", "ready"], 60)
        before = set(copies.worker_pids())
        found, pid = killed_under(copies, calls_of(copies), busy(2))
        assert found == expected
        assert before - {pid} <= set(copies.worker_pids())


def test_a_cache_too_small_for_all_preempts_and_recomputes_without_changing_a_token(
    tiny_llama: Path, expected: list[list[int]]
) -> None:
    # 512 bytes a token (2 layers, keys and values, 2 heads of 16, fp32): room for 600 tokens, the requests want 2000.
    options = ("rolling_batch=hf", "dtype=fp32", "max_rolling_batch_size=8", "kv_cache_memory_bytes=307200")
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as small:
        assert in_threads(calls_of(small)) == expected
        with small.client() as client:
            metrics = client.get("/metrics").text
        assert 'lmi_kv_total_tokens{model="model",worker="model/0"} 600.0' in metrics


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(server: ServerProcess) -> None:
    response = server.post({"inputs": "long " * 1000, "parameters": {"max_new_tokens": 5}})
    assert response.status_code == 400
    assert "maximum context length is 512" in response.json()["message"]
    assert "request.too-long: prompt" in response.json()["message"]


PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["Zoë", "日本"]}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("parameters", "pattern"),
    [
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_regex": r"[A-Z]{3}-\d{2}"}, r"[A-Z]{3}-\d{2}"),
        ({"guided_grammar": 'root ::= "<" x\n  | "[" x "]"\nx ::= [a-c]{2}'}, r"<[a-c]{2}|\[[a-c]{2}\]"),
        ({"guided_grammar": 'start: "a"~3 B\nB: /[xy]/'}, "aaa[xy]"),
        ({"grammar": {"type": "json", "value": {"const": [1]}}}, r"\s*\[\s*1\s*\]\s*"),
    ],
)
def test_a_constraint_is_obeyed_and_its_end_is_the_end(
    server: ServerProcess, parameters: dict[str, Any], pattern: str
) -> None:
    for draw in ({}, SAMPLED):
        answer = server.generate("Once", max_new_tokens=80, details=True, **draw, **parameters)
        assert re.fullmatch(pattern, answer["generated_text"])
        assert answer["details"]["finish_reason"] == "eos_token"


def test_several_answers_of_one_schema_are_all_json_that_it_describes(server: ServerProcess) -> None:
    blanks = {str(token_id): -50 for token_id in (197, 198, 201, 220)}  # \t \n \r and space
    asked = {**SAMPLED, "n": 3, "max_new_tokens": 60, "guided_json": PERSON, "logit_bias": blanks}
    answer = server.generate("Who?", details=True, **asked)
    texts = [answer["generated_text"], *(each["generated_text"] for each in answer["details"]["best_of_sequences"])]
    for text in texts:
        person = json.loads(text)
        assert person["name"] in PERSON["properties"]["name"]["enum"]
        assert 0 <= person["age"] <= 9


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"guided_json": {"type": 3}}, ["request.invalid: guided_json=", "type must be a string"]),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, ["guided_json=", "uniqueItems"]),
        ({"guided_regex": "a(?=b)"}, ["guided_regex='a(?=b)'", "look-ahead"]),
        ({"guided_grammar": "root ::= nothing"}, ["guided_grammar='root ::= nothing'", "'nothing' not found"]),
        ({"guided_grammar": "start: nothing"}, ["guided_grammar=", "unknown name"]),
        ({"grammar": {"type": "json", "value": {"enum": []}}}, ["grammar=", "anyOf is empty"]),
        ({"guided_choice": ["a"], "num_beams": 2}, ["num_beams=2", "guided_choice=['a']"]),
        ({"guided_regex": "[ab]{4}", "min_new_tokens": 20}, ["request.constraint-failed", "min_tokens=20"]),
    ],
)
def test_a_constraint_that_cannot_be_obeyed_is_refused_by_name(
    server: ServerProcess, parameters: dict[str, Any], words: list[str]
) -> None:
    response = server.post({"inputs": "Once", "parameters": parameters})
    assert response.status_code == 400
    assert [word for word in words if word not in response.json()["message"]] == []


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

    with serve(str(demo_model), "-o", "rolling_batch=hf", "-o", "dtype=fp32") as server:
        calls = [
            lambda i=i, p=prompt: tokens(server, p, max_new_tokens=24, **({**SAMPLED, "seed": i} if i % 2 else {}))
            for i, prompt in enumerate(prompts)
        ]
        expected = in_threads(calls)
        found, pid = killed_under(server, calls, busy(8))
        assert found == expected
        assert server.worker_pids() != [pid]


# ------------------------------------------------------------------------------------- lists, and answers as TGI's


def test_texts_of_a_list_get_the_answers_they_get_alone(server: ServerProcess) -> None:
    prompts = ["Once upon a time", "a", "One, two, three", "Hello"]
    for sampled in ({}, SAMPLED):
        parameters = {**sampled, "max_new_tokens": 20}
        answers = server.post({"inputs": prompts, "parameters": parameters}).json()
        assert answers == [server.generate(prompt, **parameters) for prompt in prompts]


def test_texts_get_the_same_answers_in_whole_batches(server: ServerProcess, tiny_llama: Path) -> None:
    options = ("rolling_batch=disable", "batch_size=4", "dtype=fp32", "max_batch_delay=300000")
    prompts = ["Once upon a time", "a", "One, two, three", "Hello"]
    expected = [server.generate(prompt, max_new_tokens=20) for prompt in prompts]
    with serve(str(tiny_llama), *(part for option in options for part in ("-o", option))) as batched:
        body = {"parameters": {"max_new_tokens": 20}}
        found = in_threads(
            [lambda prompt=prompt: batched.post({**body, "inputs": prompt}).json() for prompt in prompts]
        )
    assert found == [[each] for each in expected]


def test_a_client_of_tgi_gets_seeds_prompts_and_log_probabilities(server: ServerProcess, tiny_llama: Path) -> None:
    asked = {"do_sample": True, "temperature": 0.9, "seed": 7, "max_new_tokens": 12}
    expected = server.generate("Hello", details=True, **asked)
    with serve(str(tiny_llama), "-o", "rolling_batch=hf", "-o", "dtype=fp32", "-o", "tgi_compat=true") as speaking:
        client = InferenceClient(model=speaking.url)
        answer = client.text_generation("Hello", details=True, decoder_input_details=True, top_n_tokens=2, **asked)
        events = list(client.text_generation("Hello", details=True, stream=True, **asked))
    details, tokens = answer.details, expected["details"]["tokens"]
    assert (answer.generated_text, details.seed) == (expected["generated_text"], 7)
    assert [each.id for each in details.tokens] == [each["id"] for each in tokens]
    assert [each.logprob for each in details.tokens] == pytest.approx([each["log_prob"] for each in tokens])
    assert "".join(each.text for each in details.prefill) == "Hello"
    assert details.prefill[0].logprob is None
    assert all(each.logprob < 0 for each in details.prefill[1:])
    assert [len(each) for each in details.top_tokens] == [2] * len(tokens)
    assert [each.index for each in events] == list(range(1, len(tokens) + 1))
    assert [each.token.id for each in events] == [each["id"] for each in tokens]
    assert events[-1].details.seed == 7
    assert events[-1].details.input_length == len(details.prefill)
