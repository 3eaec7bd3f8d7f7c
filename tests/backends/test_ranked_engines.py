# SPDX-License-Identifier: Apache-2.0
"""A model split over ranks by lmi-dist or deepspeed gives the tokens of a whole one, drawn or not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.backends.llama_answers import greedy_ids, write_merged
from tests.buckets import Bucket
from tests.servers import (
    ServerProcess,
    busy,
    eventually,
    in_threads,
    killed_under,
    ranks_of,
    serve,
    shared_memory,
    wait_for_ends,
    with_descendants,
)

PROMPTS = (
    "What is deep learning?",
    "How many ways can I peel an orange",
    "x",
    "Water boils at",
    "In 1969, people first",
)
N_TOKENS = 24
DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "seed": 7}
pytestmark = pytest.mark.usefixtures("mpirun")

BACKENDS = ("lmi-dist", "deepspeed")

LOAD_S = 240


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def expected(llama: Path) -> list[list[int]]:
    """The greedy ids of transformers."""
    return greedy_ids(llama, PROMPTS, N_TOKENS)


@contextmanager
def running(folder: Path, backend: str, n_ranks: int, *options: str) -> Iterator[ServerProcess]:
    if backend == "deepspeed":
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install 'lmi-deepspeed[engine]'")
    flags = (f"rolling_batch={backend}", f"tensor_parallel_degree={n_ranks}", "dtype=fp32", "heartbeat_interval=0.2")
    given = [word for flag in (*flags, *options) for word in ("-o", flag)]
    with serve(str(folder), *given, is_ready=False) as server:
        yield server.wait_until_ready(LOAD_S)


def tokens(server: ServerProcess, prompt: str, **parameters: Any) -> list[int]:
    parameters = {"max_new_tokens": N_TOKENS, "ignore_eos_token": True, **parameters}
    answer = server.generate(prompt, details=True, **parameters)
    return [token["id"] for token in answer["details"]["tokens"]]


def together(server: ServerProcess, **parameters: Any) -> list[list[int]]:
    return in_threads([lambda p=p: tokens(server, p, **parameters) for p in PROMPTS])


@pytest.fixture(scope="module")
def drawn(llama: Path) -> list[list[int]]:
    """What one process draws."""
    with running(llama, "hf", 1) as server:
        return together(server, **DRAWN)


@pytest.mark.parametrize("backend", [pytest.param("lmi-dist", marks=pytest.mark.long), "deepspeed"])
def test_a_model_split_over_two_ranks_gives_the_tokens_of_a_whole_one_and_goes_on_after_a_death(
    llama: Path, expected: list[list[int]], drawn: list[list[int]], backend: str
) -> None:
    before = shared_memory()
    with running(llama, backend, 2) as server:
        eventually(lambda: not {each for each in shared_memory() - before if each.startswith("deepspeed")})
        assert together(server) == expected
        assert together(server, **DRAWN) == drawn
        [mpirun] = server.worker_pids()
        old = psutil.Process(mpirun).children(recursive=True)
        last = ranks_of(server)[-1].pid
        calls = [lambda p=p: tokens(server, p) for p in PROMPTS]
        found, _ = killed_under(server, calls, busy(1, "n_running", instead=last))
        assert found == expected, "the requests went on with the tokens that they would have had"
        wait_for_ends(old)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_starts_stops_and_deaths_leave_no_process_or_shared_memory(llama: Path, backend: str) -> None:
    before = shared_memory()
    for number in range(6):
        with running(llama, backend, 2) as server:
            [worker] = server.worker_pids()
            everybody = with_descendants(psutil.Process(worker))
            assert tokens(server, PROMPTS[0], max_new_tokens=2)
            if number % 3 == 1:
                os.kill(worker, signal.SIGKILL)
            if number % 3 == 2:
                server.process.kill()
            else:
                server.terminate()
                assert server.wait_for_end() == 0
            wait_for_ends(everybody, 20)
    assert shared_memory() - before == set()


@pytest.mark.parametrize("backend", [pytest.param("lmi-dist", marks=pytest.mark.long), "deepspeed"])
def test_one_rank_needs_no_mpirun(llama: Path, expected: list[list[int]], backend: str) -> None:
    with running(llama, backend, 1) as server:
        assert together(server) == expected
        assert ranks_of(server) == []


@pytest.mark.long
@pytest.mark.parametrize("backend", ["lmi-dist", "deepspeed"])
def test_an_adapter_is_merged_into_a_base_model_that_is_split(llama: Path, tmp_path: Path, backend: str) -> None:
    adapter = write_tiny_adapter(write_tokenizer(tmp_path / "adapter"), llama, rank=8, seed=1)
    expected = greedy_ids(write_merged(tmp_path / "merged", llama, adapter), PROMPTS, N_TOKENS)
    with running(adapter, backend, 2) as server:
        assert together(server) == expected


@pytest.mark.long
def test_random_weights_are_the_same_on_all_ranks(llama: Path) -> None:
    with running(llama, "lmi-dist", 2, "load_format=dummy") as server:
        found = together(server)
        assert found == together(server)
        assert len({tuple(ids) for ids in found}) == len(PROMPTS)


@pytest.mark.long
@pytest.mark.parametrize(("backend", "n_ranks"), [("lmi-dist", 3), ("deepspeed", 2), ("deepspeed", 3)])
def test_the_demo_model_is_split_by_its_nine_heads_or_unevenly(demo_model: Path, backend: str, n_ranks: int) -> None:
    expected = greedy_ids(demo_model, PROMPTS[:2], 12)
    with running(
        demo_model, backend, n_ranks, "kv_cache_memory_bytes=0" if backend == "hf" else "max_rolling_batch_size=4"
    ) as server:
        found = [tokens(server, prompt, max_new_tokens=12) for prompt in PROMPTS[:2]]
    assert found == expected


# ---------------------------------------------------------------------------------------------------------- drafts


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, rounded: a model that guesses well."""
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "draft", dtype="bfloat16")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("tensor_parallel_degree=1",), marks=pytest.mark.long),
        pytest.param(("draft_model_tp_size=1",), marks=pytest.mark.long),
        pytest.param(("draft_model_tp_size=2",), marks=pytest.mark.long),
    ],
)
def test_a_draft_model_spares_steps_and_changes_no_token(
    llama: Path, draft: Path, expected: list[list[int]], drawn: list[list[int]], options: tuple[str, ...]
) -> None:
    n_ranks = 1 if options[0] == "tensor_parallel_degree=1" else 2
    more = options[1:] if n_ranks == 1 else options
    guesses = (f"speculative_draft_model={draft}", "speculative_length=4", *more)
    with running(llama, "lmi-dist", n_ranks, *guesses) as server:
        assert together(server) == expected
        worker = eventually(lambda: next((each for each in server.workers() if each["n_guessed_tokens"]), None))
        assert worker["n_accepted_tokens"] > 0.5 * worker["n_guessed_tokens"], "its guesses are good ones"
        assert together(server, **DRAWN) == drawn
        with server.client() as client:
            text = client.get("/metrics").text
        assert "lmi_draft_accepted_tokens" in text


def test_a_draft_model_in_a_store_is_fetched_before_the_model_is_loaded(
    llama: Path, draft: Path, expected: list[list[int]], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in draft.iterdir():
        bucket.put(f"draft/{path.name}", path.read_bytes())
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    with running(llama, "lmi-dist", 1, "speculative_draft_model=s3://bucket/draft") as server:
        assert together(server) == expected
        assert eventually(lambda: server.workers() and server.workers()[0]["n_guessed_tokens"])
    assert list(tmp_path.rglob("model.safetensors"))
