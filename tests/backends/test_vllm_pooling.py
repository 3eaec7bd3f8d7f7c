# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels of the backend `vllm`: what its engine is told, and its answers beside those of transformers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import psutil
import pytest

from lmi.api import Target
from lmi.artifacts import detect
from lmi.serving.tokenizer import load_tokenizer
from lmi.testing import write_tiny
from lmi_vllm.checks import find_problems
from lmi_vllm.config import VLLMConfig
from lmi_vllm.starting import engine_arguments
from tests.backends.pooling_models import LABELS, cosine, hidden_states, probabilities, write_bert
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, serve

TEXTS = ["What is deep learning?", "How many ways can I peel an orange", "x", "one two three four " * 8]
LEAST_COSINE = 0.999

OPTIONS = (
    "rolling_batch=vllm", "dtype=fp32", "enforce_eager=true", "kv_cache_memory_bytes=67108864",
    "max_rolling_batch_size=8", "heartbeat_interval=0.2",
)  # fmt: skip


# ------------------------------------------------------------------------------------------- what vLLM is told


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": write_bert(root / "bert"),
        "mean": write_bert(root / "mean", pooling="mean"),
        "labels": write_bert(root / "labels", labels=LABELS),
        "llama": write_tiny("llama-wide", root / "llama"),
    }


@pytest.mark.parametrize(
    ("name", "options", "runner", "convert"),
    [
        ("llama", {}, None, None),
        ("llama", {"task": "auto"}, None, None),
        ("llama", {"task": "text-generation"}, "generate", None),
        ("llama", {"task": "Text-Embedding"}, "pooling", "embed"),
        ("bert", {}, "pooling", "embed"),
        ("bert", {"task": "auto"}, "pooling", "embed"),
        ("labels", {}, "pooling", "classify"),
        ("labels", {"task": "feature-extraction"}, "pooling", "embed"),
        ("bert", {"convert": "none"}, "pooling", "none"),
    ],
)
def test_the_engine_is_told_what_the_model_does(
    folders: dict[str, Path], name: str, options: dict[str, Any], runner: str | None, convert: str | None
) -> None:
    config = VLLMConfig.model_validate(VLLMConfig(**options).model_dump())  # as a worker gets it: every field is set
    arguments = engine_arguments(detect(folders[name]), config)
    assert (arguments.get("runner"), arguments.get("convert")) == (runner, convert)


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("llama", {"task": "text-classification"}, "model.task-not-served"),
        ("llama", {"task": "classify", "hf_overrides": {"architectures": ["LlamaForSequenceClassification"]}}, ""),
        ("labels", {"task": "classify"}, ""),
        ("bert", {"speculative_config": {"method": "ngram"}}, "config.conflict"),
        ("bert", {}, ""),
    ],
)
def test_a_task_that_the_model_has_no_head_for_is_refused_before_it_loads(
    folders: dict[str, Path], name: str, options: dict[str, Any], code: str
) -> None:
    problems = find_problems(detect(folders[name]), VLLMConfig(**options), Target())
    assert [problem.code for problem in problems] == ([code] if code else [])


# --------------------------------------------------------------------------------------- the engine's own answers


def running(folder: Path, python: str, *options: str) -> AbstractContextManager[ServerProcess]:
    pairs = [part for each in (*OPTIONS, f"pythonExecutable={python}", *options) for part in ("-o", each)]
    return serve(str(folder), *pairs, environ={"TORCH_COMPILE_DISABLE": "1"}, is_ready=False)


@pytest.fixture(scope="module")
def vectors(folders: dict[str, Path], vllm_python: str) -> Iterator[ServerProcess]:
    """A model as sentence-transformers saves one; nothing says its task but its files."""
    with running(folders["mean"], vllm_python) as server:
        yield server.wait_until_ready(300)


def answer(server: ServerProcess, **body: Any) -> Any:
    response = server.post(body)
    assert response.status_code == 200, response.text
    return response.json()


def mean_vectors(folder: Path, texts: list[str]) -> list[Any]:
    tokenizer = load_tokenizer(detect(folder))
    return [states.mean(0) for states in hidden_states(folder, [tokenizer.encode(text) for text in texts])]


def test_vectors_are_those_of_transformers(vectors: ServerProcess, folders: dict[str, Path]) -> None:
    expected = mean_vectors(folders["mean"], TEXTS)
    found = answer(vectors, inputs=TEXTS)
    assert [np.linalg.norm(each) for each in found] == pytest.approx([1.0] * len(TEXTS), abs=1e-5)
    assert min(map(cosine, found, expected)) > LEAST_COSINE
    raw = answer(vectors, inputs=TEXTS, normalize=False)
    for one, other in zip(raw, expected, strict=True):
        assert one == pytest.approx(other.tolist(), abs=1e-3)


def test_openais_client_gets_the_same_vectors_from_texts_and_ids(
    vectors: ServerProcess, folders: dict[str, Path]
) -> None:
    tokenizer = load_tokenizer(detect(folders["mean"]))
    ids = [tokenizer.encode(text) for text in TEXTS]
    with openai.OpenAI(base_url=f"{vectors.url}/v1", api_key="none", timeout=limit_s(60)) as client:
        of_texts = client.embeddings.create(model="m", input=TEXTS)
        of_ids = client.embeddings.create(model="m", input=ids)
    assert of_texts.usage.prompt_tokens == sum(map(len, ids))
    assert (
        min(map(cosine, mean_vectors(folders["mean"], TEXTS), [item.embedding for item in of_ids.data])) > LEAST_COSINE
    )
    for one, other in zip(of_texts.data, of_ids.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)


def test_what_vllm_refuses_is_the_callers_fault_and_the_engine_goes_on(vectors: ServerProcess) -> None:
    refused = vectors.post({"inputs": "abc", "parameters": {"dimensions": 8}})
    assert (refused.status_code, refused.json()["error"]) == (400, "request.invalid")
    assert "Matryoshka" in refused.json()["message"]
    long = vectors.post({"inputs": "a " * 600})
    assert (long.status_code, long.json()["error"]) == (400, "request.too-long")
    assert len(vectors.post({"inputs": "a " * 600, "truncate": True}).json()[0]) == 64
    assert vectors.post({"inputs": "abc", "parameters": {"max_new_tokens": 4}}).json()["error"] == "request.wrong-task"


def test_a_client_that_leaves_frees_the_engine(vectors: ServerProcess) -> None:
    def gauge(name: str) -> float:
        with vectors.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"lmi_{name}_requests{{"))

    url = urlsplit(vectors.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(60))
    connection.request("POST", "/invocations", json.dumps({"inputs": ["a b c d " * 60] * 2048}))
    eventually(lambda: gauge("waiting") > 0, 30)
    connection.close()
    eventually(lambda: gauge("waiting") + gauge("running") == 0, 30)
    assert len(vectors.post({"inputs": "abc"}).json()) == 1


@pytest.mark.long
def test_a_request_survives_the_death_of_its_worker(vectors: ServerProcess, folders: dict[str, Path]) -> None:
    """Last of this server: its worker is another one afterwards."""
    (pid,) = vectors.worker_pids()
    psutil.Process(pid).kill()
    found = vectors.post({"inputs": TEXTS[:1]}, timeout=limit_s(300)).json()
    assert cosine(found[0], mean_vectors(folders["mean"], TEXTS[:1])[0]) > LEAST_COSINE
    assert vectors.worker_pids() != [pid]


@pytest.mark.long
def test_labels_and_their_probabilities_are_those_of_transformers(folders: dict[str, Path], vllm_python: str) -> None:
    tokenizer = load_tokenizer(detect(folders["labels"]))
    expected = probabilities(folders["labels"], [tokenizer.encode(text) for text in TEXTS])
    with running(folders["labels"], vllm_python) as server:
        answers = answer(server.wait_until_ready(300), inputs=TEXTS)
        single = answer(server, inputs=TEXTS[0], top_k=1)
    for found, scores in zip(answers, expected, strict=True):
        assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
        assert {each["label"]: each["score"] for each in found} == pytest.approx(
            dict(zip(LABELS, scores, strict=True)), abs=1e-3
        )
    best = {"label": answers[0][0]["label"], "score": pytest.approx(answers[0][0]["score"], abs=1e-5)}
    assert single == [best], "alone and beside other texts, float32 may round differently"


@pytest.mark.long
def test_a_causal_model_makes_vectors_where_it_is_asked_to(folders: dict[str, Path], vllm_python: str) -> None:
    tokenizer = load_tokenizer(detect(folders["llama"]))
    states = hidden_states(folders["llama"], [tokenizer.encode(text) for text in TEXTS])
    options = ("task=text-embedding", 'hf_overrides={"is_matryoshka": true}')
    with running(folders["llama"], vllm_python, *options) as server:
        server.wait_until_ready(300)
        found = answer(server, inputs=TEXTS)
        cut = answer(server, inputs=TEXTS, dimensions=16)
    assert min(cosine(one, other[-1]) for one, other in zip(found, states, strict=True)) > LEAST_COSINE
    assert {len(each) for each in cut} == {16}
    assert min(cosine(one, other[-1][:16]) for one, other in zip(cut, states, strict=True)) > LEAST_COSINE
