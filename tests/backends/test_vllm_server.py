# SPDX-License-Identifier: Apache-2.0
"""The backend `vllm` behind real HTTP: the same file as for `hf`, the same tokens, every parameter, and its death."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmi.serving.tokenizer import FileTokenizer
from tests.backends.vllm_servers import n_steps_of
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, in_threads, serve

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "The quick brown fox jumps over",
    "Water boils at",
    "In 1969, people first",
    "One, two, three,",
    "The opposite of hot is",
)
N_TOKENS = 40
LOGIT_GAP = 1e-3
"""Nats between the two best ids of hf under which float32 kernels may differ."""

PROPERTIES = """\
engine=Python
option.rolling_batch={backend}
option.dtype=fp32
option.max_rolling_batch_size=8
option.max_model_len=512
"""
OWN = (
    "enforce_eager=true", "kv_cache_memory_bytes=536870912", "max_rolling_batch_prefill_tokens=64",
    "heartbeat_interval=0.2",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model beside a serving.properties of our own."""
    folder = tmp_path_factory.mktemp("model")
    for file in demo_model.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, vllm_python: str) -> Iterator[ServerProcess]:
    (folder / "serving.properties").write_text(PROPERTIES.format(backend="vllm"))
    options = [f"pythonExecutable={vllm_python}", *OWN]
    with serve(str(folder), *(part for option in options for part in ("-o", option)), is_ready=False) as running:
        yield running.wait_until_ready(300)


def tokens(server: ServerProcess, prompt: str, **parameters: Any) -> list[int]:
    return [line["token"]["id"] for line in server.stream(prompt, **{"max_new_tokens": N_TOKENS, **parameters})]


@pytest.fixture(scope="module")
def together(server: ServerProcess) -> list[list[int]]:
    """The greedy tokens of all prompts in one batch."""
    return in_threads([lambda p=prompt: tokens(server, p) for prompt in PROMPTS])


def test_loading_is_reported_in_stages(server: ServerProcess) -> None:
    stages = [line.partition("[model/0] ")[2] for line in server.lines]
    wanted = ["import vllm", "start vllm's engine", "load weights", "prepare the cache", "vllm's engine runs", "ready"]
    assert [stage for stage in stages if stage in wanted] == wanted


def test_the_check_of_the_same_model_looks_at_vllm_and_finds_nothing(folder: Path, vllm_python: str) -> None:
    (folder / "serving.properties").write_text(PROPERTIES.format(backend="vllm"))
    command = [sys.executable, str(Path(sys.executable).with_name("lmi")), "check", str(folder)]
    options = [part for each in (f"pythonExecutable={vllm_python}", *OWN) for part in ("-o", each)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=limit_s(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would be served by vllm: " in done.stdout.splitlines()[-1]
    assert "error: " not in done.stdout


def test_changing_one_line_of_the_file_serves_the_model_with_hf_and_the_same_greedy_tokens(
    together: list[list[int]], folder: Path
) -> None:
    (folder / "serving.properties").write_text(PROPERTIES.format(backend="hf"))
    with serve(str(folder)) as other:
        wanted = {"max_new_tokens": N_TOKENS, "details": True, "top_n_tokens": 2}
        answers = in_threads([lambda p=prompt: other.generate(p, **wanted) for prompt in PROMPTS])
        for prompt, ids, answer in zip(PROMPTS, together, answers, strict=True):
            theirs = [token["id"] for token in answer["details"]["tokens"]]
            at = next((i for i, pair in enumerate(zip(ids, theirs, strict=False)) if pair[0] != pair[1]), None)
            if at is None:
                assert len(ids) == len(theirs)
                continue
            best, second = (entry["log_prob"] for entry in answer["details"]["top_tokens"][at])
            assert best - second < LOGIT_GAP, f"{prompt!r}: token {at} is {ids[at]}, with hf {theirs[at]}"


def test_a_long_prompt_is_read_in_pieces_and_not_again_when_it_comes_again(server: ServerProcess) -> None:
    prompt = "The same words come again and again. " * 52
    first, again = (n_steps_of(server, prompt, max_new_tokens=1) for _ in range(2))
    assert first >= 6, "a step reads 64 tokens"
    assert again <= 2, "vLLM keeps whole blocks of 128"


def test_requests_that_run_together_give_the_greedy_tokens_they_give_alone(
    server: ServerProcess, together: list[list[int]]
) -> None:
    assert [tokens(server, prompt) for prompt in PROMPTS[:2]] == together[:2]


CAPITAL = PROMPTS[0]
EFFECTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"stop_sequences": ["."]}, r"^ Paris$"),
    ({"ignore_eos_token": True}, {"stop_token_ids": [30]}, r"^ Paris$"),
    ({"stop_token_ids": [30]}, {"min_new_tokens": 20}, r"^ Paris.{20,}"),
    ({}, {"logit_bias": {"7042": -100.0}}, r"^(?! Paris)"),
    ({}, {"bad_words": ["Paris"]}, r"^(?!.*Paris)"),
    ({}, {"guided_choice": ["London", "Rome"]}, r"^(London|Rome)$"),
    ({}, {"guided_regex": "[A-Z]{3}-[0-9]{2}"}, r"^[A-Z]{3}-[0-9]{2}$"),
    ({}, {"guided_json": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
                          "additionalProperties": False}}, r'^\{\s*"n"\s*:\s*[12]\s*\}$'),
    ({}, {"guided_grammar": 'root ::= "yes" | "no"'}, r"^(yes|no)$"),
]  # fmt: skip
"""What is there anyway, what is added, and what the answer is then, and is not without it."""


@pytest.mark.parametrize(("others", "parameter", "pattern"), EFFECTS, ids=[",".join(row[1]) for row in EFFECTS])
def test_each_parameter_has_its_effect(
    server: ServerProcess, others: dict[str, Any], parameter: dict[str, Any], pattern: str
) -> None:
    without, text = (
        server.generate(CAPITAL, max_new_tokens=24, **others, **added)["generated_text"] for added in ({}, parameter)
    )
    assert not re.search(pattern, without, re.DOTALL), without
    assert re.search(pattern, text, re.DOTALL), text


@pytest.mark.parametrize("parameter", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.001}], ids=",".join)
def test_what_leaves_only_the_best_token_gives_the_greedy_text_however_hot_it_is(
    server: ServerProcess, parameter: dict[str, Any]
) -> None:
    def text(**parameters: Any) -> str:
        return str(server.generate(CAPITAL, max_new_tokens=8, **parameters)["generated_text"])

    plain, seeds, hot = text(), range(4), {"do_sample": True, "temperature": 2.0}
    assert plain not in [text(seed=seed, **hot) for seed in seeds]
    assert [text(seed=seed, **hot, **parameter) for seed in seeds] == [plain] * 4


@pytest.mark.parametrize(
    "parameter", [{"repetition_penalty": 1.5}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}], ids=",".join
)
def test_a_penalty_brings_more_different_tokens(
    server: ServerProcess, together: list[list[int]], parameter: dict[str, Any]
) -> None:
    plain, penalised = together[PROMPTS.index(CAPITAL)], tokens(server, CAPITAL, **parameter)
    assert len(set(plain)) < 0.6 * len(plain)
    assert len(set(penalised)) > 0.8 * len(penalised)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("An apple, a banana. An apple, a banana. An apple, a", " banana"), ("banana\n" * 4, "banana")],
    ids=["after a blank", "alone"],
)
def test_a_bad_word_stays_away_although_it_has_fewer_tokens_after_a_blank_than_without_one(
    server: ServerProcess, folder: Path, prompt: str, word: str
) -> None:
    tokenizer = FileTokenizer(folder / "tokenizer.json", {})
    alone, after_blank = (tokenizer.encode(text, adds_special=False) for text in ("banana", " banana"))
    assert len(alone) > len(after_blank)

    def has(ids: list[int], wanted: list[int]) -> bool:
        return any(ids[at : at + len(wanted)] == wanted for at in range(len(ids)))

    plain, without = (tokens(server, prompt, max_new_tokens=16, **each) for each in ({}, {"bad_words": ["banana"]}))
    assert has(plain, after_blank if word.startswith(" ") else alone)
    assert not has(without, after_blank) and not has(without, alone)


def test_a_seed_gives_the_same_text_again_and_another_seed_another(server: ServerProcess) -> None:
    first, again, other = (
        server.generate("Once", do_sample=True, seed=seed, temperature=1.5, max_new_tokens=8)["generated_text"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_log_probabilities_of_prompt_and_answer_come_with_the_best_ids(server: ServerProcess) -> None:
    details = server.generate(CAPITAL, details=True, decoder_input_details=True, top_n_tokens=3)["details"]
    assert all(len(best) == 3 for best in details["top_tokens"])
    assert [best[0]["id"] for best in details["top_tokens"]] == [token["id"] for token in details["tokens"]]
    assert "log_prob" not in details["prefill"][0] or details["prefill"][0]["log_prob"] is None
    assert all(token["log_prob"] < 0 for token in details["prefill"][1:])


def test_several_answers_and_beams_come_from_the_core(server: ServerProcess) -> None:
    answer = server.generate("Once", n=2, best_of=3, do_sample=True, seed=5, details=True, max_new_tokens=8)
    assert len(answer["details"]["best_of_sequences"]) == 1
    beams = server.generate(CAPITAL, num_beams=3, max_new_tokens=8)
    assert beams["generated_text"].startswith(" Paris")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"temperature": 3.0, "do_sample": True}, "temperature"),
        ({"stop_token_ids": [99_999_999]}, "99999999"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"guided_json": {"type": 3}}, "type"),
        ({"max_new_tokens": 4000}, "512"),
        ({"guided_regex": "[0-9]{3}", "bad_words": [*"0123456789"]}, "request.constraint-failed"),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name_and_harms_nobody(
    server: ServerProcess, parameters: dict[str, Any], named: str
) -> None:
    response = server.post({"inputs": CAPITAL, "parameters": parameters})
    assert response.status_code == 400
    assert named in response.text
    assert server.generate(CAPITAL, max_new_tokens=2)["generated_text"] == " Paris."


def test_a_client_that_leaves_frees_its_place(server: ServerProcess) -> None:
    stream = server.stream("Once", max_new_tokens=500, ignore_eos_token=True)
    next(stream)
    eventually(lambda: server.workers()[0]["n_running"] == 1)
    stream.close()
    eventually(lambda: server.workers()[0]["n_running"] == 0)


@pytest.mark.long
def test_when_its_core_dies_the_worker_ends_with_vllms_words_and_streams_go_on(server: ServerProcess) -> None:
    [pid] = server.worker_pids()
    children = psutil.Process(pid).children(recursive=True)
    victim = next(child for child in children if "VLLM::Worker" in " ".join(child.cmdline()))

    n_lines = {"plain": 0, "penalised": 0}

    def kill() -> None:
        eventually(lambda: min(n_lines.values()) >= 3, 60)
        victim.kill()

    def long(name: str, **parameters: Any) -> list[dict[str, Any]]:
        lines = []
        for line in server.stream("Once", max_new_tokens=80, ignore_eos_token=True, **parameters):
            lines.append(line)
            n_lines[name] += 1
        return lines

    plain, penalised, _ = in_threads([lambda: long("plain"), lambda: long("penalised", frequency_penalty=0.5), kill])
    assert len(plain) == 80, "the stream goes on after the restart, and loses nothing"
    assert plain[-1]["generated_text"] == "".join(line["token"]["text"] for line in plain)
    assert "engine.died" in json.dumps(penalised[-1]), "what vLLM cannot restore is told"
    said = [line for line in server.lines if "died" in line]
    assert any(re.search(r"vLLM's engine died: .*VllmWorker-0 died unexpectedly", line) for line in said), said
    assert server.worker_pids() != [pid]
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_no_process_of_vllm_outlives_a_killed_server(server: ServerProcess) -> None:
    """The last test of this file."""
    [pid] = server.worker_pids()
    children = psutil.Process(pid).children(recursive=True)
    assert len(children) >= 2
    server.kill()
    eventually(
        lambda: not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    )
