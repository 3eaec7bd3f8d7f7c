# SPDX-License-Identifier: Apache-2.0
"""The backend trtllm behind real HTTP: a stand-in that every process of the server finds, on GPUs that are none."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.backends.trtllm_builds import PBTXT
from tests.backends.trtllm_standin import VERSION, write_gpus, write_site
from tests.servers import ServerProcess, eventually, serve

OPTIONS = ("rolling_batch=trtllm", "max_input_len=100", "max_output_len=400", "heartbeat_interval=0.2")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_site(tmp_path_factory.mktemp("standin") / "site")
    write_gpus(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("model") / "model")


@contextlib.contextmanager
def started(site: Path, folder: Path, *options: str, is_ready: bool = True, **environ: str) -> Iterator[ServerProcess]:
    pairs = [part for each in (*OPTIONS, *options) for part in ("-o", each)]
    variables = {"PYTHONPATH": str(site), "LMI_CACHE_DIR": str(site.parent / "cache"), **environ}
    with serve(str(folder), *pairs, environ=variables, is_ready=is_ready) as server:
        yield server


@pytest.fixture(scope="module")
def server(site: Path, folder: Path) -> Iterator[ServerProcess]:
    with started(site, folder, LMI_STANDIN_STEP_S="0.01") as server:
        yield server


def tokens(lines: list[dict[str, Any]]) -> list[int]:
    return [line["token"]["id"] for line in lines]


def test_a_stream_has_the_tokens_of_a_whole_answer(server: ServerProcess) -> None:
    whole = server.generate("hello", max_new_tokens=12, details=True)
    lines = list(server.stream("hello", max_new_tokens=12))
    assert tokens(lines) == [each["id"] for each in whole["details"]["tokens"]]
    assert lines[-1]["generated_text"] == whole["generated_text"]
    assert all(each["log_prob"] < 0 for each in whole["details"]["tokens"])


def test_a_constraint_is_obeyed(server: ServerProcess) -> None:
    found = server.generate("yes?", max_new_tokens=4, guided_regex="(yes|no)!")["generated_text"]
    assert re.match(r"yes!|no!", found), found


def test_a_client_that_leaves_frees_its_place(server: ServerProcess) -> None:
    stream = server.stream("hello", max_new_tokens=390)
    next(stream)
    assert eventually(lambda: server.workers()[0]["n_running"] == 1)
    stream.close()
    assert eventually(lambda: server.workers()[0]["n_running"] == 0)


def test_a_prompt_that_is_too_long_is_a_mistake_of_the_client(server: ServerProcess) -> None:
    answer = server.post({"inputs": "x" * 150, "parameters": {"max_new_tokens": 5}})
    assert answer.status_code == 400
    assert "the prompt has 150 tokens; this model takes prompts of 100" in answer.json()["message"]


def test_adapters_beside_the_model_and_those_loaded_later_have_answers_of_their_own(site: Path, tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    write_tiny_adapter(folder / "adapters" / "de", folder, seed=1)
    later = write_tiny_adapter(tmp_path / "more" / "fr", folder, seed=2)
    large = write_tiny_adapter(tmp_path / "more" / "large", folder, rank=32)
    with started(site, folder, "enable_lora=true", "max_lora_rank=8") as server:

        def text(**more: Any) -> Any:
            return server.post({"inputs": "hello", "parameters": {"max_new_tokens": 12}, **more})

        plain, beside, unknown = text(), text(adapters="de"), text(adapters="fr")
        loaded = server.post({"name": "fr", "src": str(later)}, path="/models/model/adapters")
        refused = server.post({"name": "xl", "src": str(large)}, path="/models/model/adapters")
        after = text(adapters="fr")
        assert (unknown.status_code, unknown.json()["error"]) == (404, "adapter.unknown")
        assert loaded.status_code == 200, loaded.text
        assert (refused.status_code, refused.json()["error"]) == (400, "adapter.invalid")
        assert "rank 32, and max_lora_rank is 8" in refused.json()["message"]
        answers = [each.json()["generated_text"] for each in (plain, beside, after)]
        assert len(set(answers)) == 3 and text().json()["generated_text"] == answers[0]
        with server.client() as client:
            client.delete("/models/model/adapters/fr").raise_for_status()
        assert text(adapters="fr").status_code == 404


def test_when_the_engine_dies_a_stream_goes_on_in_the_worker_that_comes_after(
    site: Path, folder: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "die"
    with started(site, folder, LMI_STANDIN_DEATH_FILE=str(mark)) as server:
        whole = tokens(list(server.stream("hello", max_new_tokens=24)))
        (before,) = server.worker_pids()
        mark.touch()
        lines = list(server.stream("hello", max_new_tokens=24))
        (after,) = server.worker_pids()
    assert not mark.exists() and before != after
    assert tokens(lines) == whole
    assert "TensorRT-LLM's executor died: [TensorRT-LLM][ERROR] CUDA error" in server.output


def test_memory_that_runs_out_at_the_start_is_told(site: Path, folder: Path) -> None:
    with started(site, folder, is_ready=False, LMI_STANDIN_OUT_OF_MEMORY="1") as server:
        server.wait_for_line(r"engine\.out-of-memory: TensorRT-LLM could not load .*CUDA out of memory")


def test_a_start_that_builds_says_so_and_the_next_one_takes_what_was_built(
    site: Path, folder: Path, tmp_path: Path
) -> None:
    found = []
    for _ in range(2):
        with started(site, folder, "quantize=awq", LMI_CACHE_DIR=str(tmp_path), LMI_STANDIN_BUILD_S="0.5") as server:
            found.append((server.generate("hello", max_new_tokens=8), server.output))
    (first, built), (second, taken) = found
    assert first == second
    assert "compiled at its first start" in built and "] build engines" in built
    assert "] build engines" not in taken and "built at an earlier start" in taken


def repository(folder: Path, output: Path, *, degree: int) -> Path:
    """A repository for Triton with engines of the stand-in's version."""
    inner = output / "tensorrt_llm"
    (inner / "1").mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".json":
            (inner / path.name).write_bytes(path.read_bytes())
    (inner / "config.pbtxt").write_text(PBTXT)
    content = {
        "version": VERSION,
        "pretrained_config": {
            "architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 300,
            "mapping": {"world_size": degree, "tp_size": degree, "pp_size": 1},
        },
        "build_config": {
            "max_batch_size": 8, "max_input_len": 200, "max_seq_len": 500, "max_num_tokens": 4096,
            "gather_context_logits": False, "plugin_config": {"paged_kv_cache": True, "remove_input_padding": True},
        },
    }  # fmt: skip
    (inner / "1" / "config.json").write_text(json.dumps(content))
    for rank in range(degree):
        (inner / "1" / f"rank{rank}.engine").write_bytes(b"stand-in")
    return output


@pytest.mark.parametrize("below", ["", "tensorrt_llm"])
def test_a_repository_is_served_at_either_level(site: Path, folder: Path, tmp_path: Path, below: str) -> None:
    built = repository(folder, tmp_path / "repo", degree=1)
    with started(site, built / below) as server:
        assert server.generate("hello", max_new_tokens=5)["generated_text"]


def test_engines_for_two_gpus_are_refused_with_one(site: Path, folder: Path, tmp_path: Path) -> None:
    built = repository(folder, tmp_path / "repo", degree=2)
    with started(site, built, "tensor_parallel_degree=1", is_ready=False) as server:
        server.wait_for_line(r"tensor_parallel_degree is 1, the engines were built for 2")
        assert server.wait_for_end() != 0
