# SPDX-License-Identifier: Apache-2.0
"""Ways to run a model on the real vLLM, each a server of its own: split, with guesses, compressed, and not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmi.testing import write_tiny
from tests.backends.llama_answers import greedy_ids, logprobs_of
from tests.backends.vllm_checkpoints import write_compressed
from tests.backends.vllm_servers import n_steps_of, running, started
from tests.servers import ServerProcess, in_threads

pytestmark = pytest.mark.long

PROMPTS = (
    "What is deep learning?", "How many ways can I peel an orange", "x", "Water boils at", "In 1969, people first",
    "Once upon a time", "def fibonacci(n):", "to be or not to be",
)  # fmt: skip
N_TOKENS = 32


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def expected(llama: Path) -> list[list[int]]:
    """The greedy ids of transformers."""
    return greedy_ids(llama, PROMPTS, N_TOKENS)


def greedy(server: ServerProcess, prompt: str) -> list[int]:
    answer = server.generate(prompt, max_new_tokens=N_TOKENS, ignore_eos_token=True, details=True)
    return [token["id"] for token in answer["details"]["tokens"]]


def together(server: ServerProcess) -> list[list[int]]:
    return in_threads([lambda p=prompt: greedy(server, p) for prompt in PROMPTS])


# ------------------------------------------------------------------------------------------------------- in parts


@pytest.mark.parametrize(
    "options",
    [
        ("tensor_parallel_degree=1",),
        ("tensor_parallel_degree=2",),
        ("pipeline_parallel_degree=2", "enforce_eager=false"),  # on CPU only compiled models have stages
    ],
    ids=["whole", "ranks", "stages"],
)
def test_a_split_model_gives_the_greedy_tokens_of_a_whole_one(
    llama: Path, expected: list[list[int]], vllm_python: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    environ = {"TORCH_COMPILE_DISABLE": "0"} if "enforce_eager=false" in options else {}
    with running(llama, vllm_python, *options, f"compile_cache={tmp_path}", environ=environ) as server:
        assert together(server) == expected


# ---------------------------------------------------------------------------------------------------- with guesses


def guessing(**config: Any) -> str:
    return f"speculative_config={json.dumps({'num_speculative_tokens': 3, **config})}"


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, rounded: a model that guesses well."""
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "draft", dtype="bfloat16")


@pytest.mark.parametrize("method", ["ngram", "draft_model"])
def test_guesses_spare_steps_and_change_no_greedy_token(
    llama: Path, draft: Path, expected: list[list[int]], vllm_python: str, method: str
) -> None:
    more = {"prompt_lookup_max": 3} if method == "ngram" else {"model": str(draft)}
    with running(llama, vllm_python, guessing(method=method, **more)) as server:
        assert together(server) == expected
        assert [greedy(server, prompt) for prompt in PROMPTS] == expected
        n_steps = n_steps_of(server, PROMPTS[4], max_new_tokens=100, ignore_eos_token=True)
        assert n_steps < 90, "100 tokens, one a step, where no guess is right"


# ------------------------------------------------------------------------------------------------------ compressed


def told_logprobs(server: ServerProcess, prompt: str) -> list[float]:
    """The log probability of each token of a prompt, but for the first."""
    answer = server.generate(prompt, max_new_tokens=1, details=True, decoder_input_details=True)
    return [token["log_prob"] for token in answer["details"]["prefill"][1:]]


@pytest.mark.parametrize(("kind", "dtype"), [("int8", "fp32"), ("int4", "bf16"), ("gptq", "bf16"), ("awq", "bf16")])
def test_a_compressed_checkpoint_answers_as_the_numbers_it_holds_do(
    tmp_path: Path, vllm_python: str, kind: str, dtype: str
) -> None:
    """Compared by the log probabilities of prompts, which say more than the one id that is best."""
    compressed = write_compressed(kind, tmp_path / "compressed", tmp_path / "written-out")
    with running(compressed, vllm_python, f"dtype={dtype}") as server:
        found = np.concatenate([told_logprobs(server, prompt) for prompt in PROMPTS])
    before = write_tiny("llama-wide", tmp_path / "before")
    off, off_before = (
        np.abs(found - np.concatenate(logprobs_of(folder, PROMPTS))).mean()
        for folder in (tmp_path / "written-out", before)
    )
    assert off < 0.02, "what rounds is the arithmetic in bf16, or activations of eight bits"
    assert off < off_before, "nearer to them than to the numbers before they were compressed"


# ------------------------------------------------------------------------------------------------- what cannot load


def last_words(folder: Path, python: str, *options: str) -> str:
    """What a start that fails says at its end."""
    with started(folder, python, *options) as server:
        assert server.wait_for_end(120) == 1, server.output
        return server.output[-3000:]


def test_a_cache_too_small_for_the_longest_text_ends_the_start_in_vllms_words(llama: Path, vllm_python: str) -> None:
    said = last_words(llama, vllm_python, "kv_cache_memory_bytes=262144")
    assert re.search(r"engine\.out-of-memory: vLLM could not load .*KV cache is needed", said), said


def test_a_model_that_vllm_cannot_build_ends_the_start_in_vllms_words(tmp_path: Path, vllm_python: str) -> None:
    folder = write_tiny("llama-wide", tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "sine"}))
    said = last_words(folder, vllm_python)
    assert re.search(r"engine\.load-failed: vLLM could not load .*sine", said), said
