# SPDX-License-Identifier: Apache-2.0
"""What adapters on a real engine are asked, whichever it is: a tiny Llama with two beside it, and one elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file, save_file

from lmi.testing import write_tiny, write_tiny_adapter
from tests.backends.llama_answers import greedy_ids, write_merged
from tests.servers import ServerProcess, eventually, in_threads
from tests.wire.adapter_servers import asked, refused

PROMPTS = ("What is deep learning?", "How many ways can I peel an orange", "Water boils at", "Once upon a time")
N_TOKENS = 32
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


def write_strange_adapter(place: Path, base: Path) -> Path:
    """An adapter whose weights are for layers that the model does not have; its folder."""
    weights = write_tiny_adapter(place, base, rank=8) / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "some_proj"): values for name, values in load_file(weights).items()}, weights)
    return place


class AdaptedServer:
    """For a module whose ``server`` has at most two adapters in a step; the last of it, since its worker is killed."""

    def test_adapters_answer_as_if_they_were_merged_into_the_model_in_one_batch_with_it(
        self, server: ServerProcess, expected: dict[str, list[list[int]]]
    ) -> None:
        assert len({json.dumps(answers) for answers in expected.values()}) == 4, "each adapter answers in its own way"
        assert together(server, "fr", "de") == of(expected, "fr", "de")

    def test_an_unknown_adapter_is_refused_and_never_answered_by_the_model(self, server: ServerProcess) -> None:
        message = refused(server.post({"inputs": "x", "adapters": "frr"}), 404, "adapter.unknown")
        assert "Did you mean 'fr'?" in message

    def test_adapters_come_and_go_while_the_model_answers(
        self, server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
    ) -> None:
        src = str(folder.parent / "more" / "it")

        def load() -> int:
            return asked(server, "POST", "/adapters", json={"name": "it", "src": src, "pin": True}).status_code

        answers, status = in_threads([lambda: together(server, "fr"), load])
        assert (answers, status) == (of(expected, "fr"), 200)
        assert together(server, "it", "de", "fr") == of(expected, "it", "de", "fr"), "three share two places"
        assert asked(server, "DELETE", "/adapters/it").status_code == 200
        refused(server.post({"inputs": "x", "adapters": "it"}), 404, "adapter.unknown")

    def test_after_a_killed_worker_adapters_are_back_and_streams_go_on_with_them(
        self, server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
    ) -> None:
        """The last test: the worker is another one afterwards."""
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
