# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters on the real vLLM: beside the model, over HTTP, many in one batch, and after a death."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from lmi.testing import write_tiny, write_tiny_adapter
from tests.backends.llama_answers import greedy_ids, write_merged
from tests.backends.vllm_servers import running
from tests.servers import ServerProcess, eventually, in_threads

pytestmark = pytest.mark.long

PROMPTS = ("What is deep learning?", "How many ways can I peel an orange", "Water boils at", "Once upon a time")
N_TOKENS = 32
LONG = "Once upon a time there was a king. " * 8
"""More than a block of vLLM's cache, so that it is kept."""

SEEDS = {"fr": 1, "de": 2, "it": 3}
"""Adapter -> seed of its weights; ``it`` does not lie beside the model."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "llama")
    for name, seed in SEEDS.items():
        place = path.parent / "more" if name == "it" else path / "adapters"
        write_tiny_adapter(place / name, path, rank=8, seed=seed)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[list[int]]]:
    """What transformers answers with the model, and with each adapter merged into it."""
    root = folder.parent
    merged = {
        name: write_merged(root / f"merged-{name}", folder, next(root.glob(f"**/{name}/adapter_config.json")).parent)
        for name in SEEDS
    }
    return {name: greedy_ids(place, PROMPTS, N_TOKENS) for name, place in {"": folder, **merged}.items()}


@pytest.fixture(scope="module")
def server(folder: Path, vllm_python: str) -> Iterator[ServerProcess]:
    # Fewer places than adapters: vLLM changes them while requests wait.
    with running(folder, vllm_python, "enable_lora=true", "max_loras=2", "max_lora_rank=8") as process:
        yield process


def answered(server: ServerProcess, prompt: str, adapter: str, **parameters: Any) -> list[int]:
    wanted = {"max_new_tokens": N_TOKENS, "ignore_eos_token": True, "details": True, **parameters}
    response = server.post({"inputs": prompt, "parameters": wanted, "adapters": adapter})
    assert response.status_code == 200, response.text
    return [token["id"] for token in response.json()["details"]["tokens"]]


def together(server: ServerProcess, *names: str) -> dict[str, list[list[int]]]:
    """All prompts with the model and some adapters at the same time."""
    pairs = [(name, prompt) for prompt in PROMPTS for name in ("", *names)]
    found = in_threads([lambda n=name, p=prompt: answered(server, p, n) for name, prompt in pairs])
    answers: dict[str, list[list[int]]] = {}
    for (name, _), ids in zip(pairs, found, strict=True):
        answers.setdefault(name, []).append(ids)
    return answers


def of(expected: dict[str, list[list[int]]], *names: str) -> dict[str, list[list[int]]]:
    return {name: expected[name] for name in ("", *names)}


def asked(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.request(method, path, **options)


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    return str(response.json()["message"])


def test_adapters_beside_a_model_answer_as_if_they_were_merged_into_it_in_one_batch(
    server: ServerProcess, expected: dict[str, list[list[int]]]
) -> None:
    assert len({json.dumps(answers) for answers in expected.values()}) == 4, "each adapter answers in its own way"
    assert together(server, "fr", "de") == of(expected, "fr", "de")


def test_the_cache_of_one_adapters_prompt_is_not_anothers(
    server: ServerProcess, expected: dict[str, list[list[int]]]
) -> None:
    first, second, base, again = (answered(server, LONG, name) for name in ("fr", "de", "", "fr"))
    assert first == again
    assert first != second != base != first


def test_an_unknown_adapter_is_refused_and_never_answered_by_the_model(server: ServerProcess) -> None:
    message = refused(server.post({"inputs": "x", "adapters": "frr"}), 404, "adapter.unknown")
    assert "Did you mean 'fr'?" in message


def test_adapters_come_and_go_while_the_model_answers(
    server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
) -> None:
    src = str(folder.parent / "more" / "it")

    def load() -> int:
        return asked(server, "POST", "/adapters", json={"name": "it", "src": src}).status_code

    answers, status = in_threads([lambda: together(server, "fr"), load])
    assert (answers, status) == (of(expected, "fr"), 200)
    assert together(server, "it", "de", "fr") == of(expected, "it", "de", "fr"), "three share two places"
    assert asked(server, "DELETE", "/adapters/it").status_code == 200
    refused(server.post({"inputs": "x", "adapters": "it"}), 404, "adapter.unknown")


def test_a_pinned_adapter_keeps_its_place_and_requests_for_others_share_the_rest(
    server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
) -> None:
    """Of two places one is left; without a queue before it, vLLM would put two others into one batch and end."""
    [pid] = server.worker_pids()
    src = str(folder.parent / "more" / "it")
    assert asked(server, "POST", "/adapters", json={"name": "it", "src": src}).status_code == 200

    def pin() -> int:
        return asked(server, "POST", "/adapters/fr/update", json={"pin": True}).status_code

    answers, status = in_threads([lambda: together(server, "de", "it"), pin])  # pinned while others have both places
    assert (answers, status) == (of(expected, "de", "it"), 200)
    assert together(server, "de", "it") == of(expected, "de", "it")
    assert together(server, *SEEDS) == of(expected, *SEEDS)
    body = {"name": "second", "src": src, "pin": True}
    message = refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.too-many-pinned")
    assert "1 adapter is pinned, and max_loras is 2" in message
    assert asked(server, "POST", "/adapters/fr/update", json={"pin": False}).status_code == 200
    assert together(server, *SEEDS) == of(expected, *SEEDS)
    assert asked(server, "DELETE", "/adapters/it").status_code == 200
    assert server.worker_pids() == [pid]


def test_a_folder_that_holds_other_weights_by_now_answers_with_those(
    server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    for name in ("fr", "de"):
        write_tiny_adapter(tmp_path / "new", folder, rank=8, seed=SEEDS[name])
        body = {"name": "new", "src": str(tmp_path / "new")}
        assert asked(server, "POST", "/adapters", json=body).status_code == 200
        assert answered(server, LONG, "new") == answered(server, LONG, name)
        assert asked(server, "DELETE", "/adapters/new").status_code == 200


def test_an_adapter_that_cannot_be_loaded_is_refused_and_the_engine_lives(
    server: ServerProcess, folder: Path, tmp_path: Path, expected: dict[str, list[list[int]]]
) -> None:
    [pid] = server.worker_pids()
    body = {"name": "bad", "src": "/no/such/folder"}
    refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.bad-source")
    weights = write_tiny_adapter(tmp_path / "strange", folder, rank=8) / "adapter_model.safetensors"
    renamed = {name.replace("q_proj", "some_proj"): values for name, values in load_file(weights).items()}
    save_file(renamed, weights)
    body = {"name": "bad", "src": str(weights.parent)}
    message = refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.not-loadable")
    assert "vLLM cannot load adapter 'bad'" in message
    assert together(server, "fr") == of(expected, "fr")
    assert server.worker_pids() == [pid]


def test_after_a_killed_worker_adapters_are_back_and_streams_go_on_with_them(
    server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
) -> None:
    """The last test of this file: its worker is another one afterwards."""
    body = {"name": "it", "src": str(folder.parent / "more" / "it")}
    assert asked(server, "POST", "/adapters", json=body).status_code == 200
    [pid] = server.worker_pids()

    started: list[str] = []

    def long(name: str) -> list[int]:
        wanted = {"max_new_tokens": 300, "ignore_eos_token": True}
        body = {"inputs": PROMPTS[0], "parameters": wanted, "adapters": name, "stream": True}
        ids = []
        with server.client() as client, client.stream("POST", "/invocations", json=body) as response:
            for line in response.iter_lines():
                ids.append(json.loads(line)["token"]["id"])
                started.append(name)
        return ids

    def kill() -> None:
        eventually(lambda: {"it", "fr"} <= set(started), 60)
        psutil.Process(pid).kill()

    italian, french, _ = in_threads([lambda: long("it"), lambda: long("fr"), kill])
    assert server.worker_pids() != [pid]
    assert (len(italian), len(french)) == (300, 300)
    assert (italian[:N_TOKENS], french[:N_TOKENS]) == (expected["it"][0], expected["fr"][0])
    assert together(server, *SEEDS) == of(expected, *SEEDS)
