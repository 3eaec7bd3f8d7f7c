# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels over real HTTP: LMI's form, OpenAI's client, wrong requests, and workers that die meanwhile."""

from __future__ import annotations

import base64
import http.client
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.core.distributions import Distributions
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, in_threads, serve

Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="module")
def serve_vectors(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """``with serve_vectors("task=classify") as server:``"""
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parent / "vectors_backend.py").read_text()
    Distributions(folder).install("lmi-vectors", "lmi.backends", "vectors", code)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

    def start(*options: str, **environ: str) -> AbstractContextManager[ServerProcess]:
        pairs = [
            part for each in ("rolling_batch=vectors", "heartbeat_interval=0.05", *options) for part in ("-o", each)
        ]
        return serve(*pairs, environ={"PYTHONPATH": path, **environ})

    return start


@pytest.fixture(scope="module")
def vectors(serve_vectors: Serve) -> Iterator[ServerProcess]:
    with serve_vectors("task=text-embedding") as server:
        yield server


@pytest.fixture(scope="module")
def labels(serve_vectors: Serve) -> Iterator[ServerProcess]:
    with serve_vectors("task=text-classification") as server:
        yield server


@pytest.fixture(scope="module")
def generating(serve_vectors: Serve) -> Iterator[ServerProcess]:
    with serve_vectors() as server:
        yield server


@pytest.fixture
def client(vectors: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vectors.url}/v1", api_key="none", max_retries=0, timeout=limit_s(30)) as found:
        yield found


def raw(text: str) -> list[float]:
    ids = text.encode()
    return [float(len(ids)), float(sum(ids)), float(ids[0]), float(ids[-1])]


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def embed(server: ServerProcess, *texts: str, **parameters: Any) -> Any:
    response = server.post({"inputs": list(texts), "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(server: ServerProcess, body: Any, path: str = "/invocations") -> tuple[int, str, str]:
    response = server.post(body, path)
    answer = response.json()
    if path.startswith("/v1/"):  # errors as OpenAI has them
        return response.status_code, answer["error"]["code"], answer["error"]["message"]
    return response.status_code, answer["error"], answer["message"]


# ----------------------------------------------------------------------------------------------------------- LMI's form


def test_a_list_of_texts_gets_one_vector_each_in_its_order(vectors: ServerProcess) -> None:
    assert embed(vectors, "abc", "z", "abc") == [pytest.approx(unit(raw(each))) for each in ("abc", "z", "abc")]


def test_a_single_text_gets_a_list_with_its_vector(vectors: ServerProcess) -> None:
    assert vectors.post({"inputs": "abc"}).json() == [pytest.approx(unit(raw("abc")))]


@pytest.mark.parametrize("path", ["/invocations", "/predictions/model"])
def test_normalize_is_asked_for_in_parameters_or_beside_inputs(vectors: ServerProcess, path: str) -> None:
    name = vectors.health()["models"][0]["name"]
    path = path.replace("model", name)
    for body in ({"parameters": {"normalize": False}}, {"normalize": False}):
        assert vectors.post({"inputs": ["abc"], **body}, path).json() == [raw("abc")]


def test_the_option_decides_where_the_request_does_not(serve_vectors: Serve) -> None:
    with serve_vectors("task=feature-extraction", "normalize=false") as server:
        assert embed(server, "abc") == [raw("abc")]
        assert embed(server, "abc", normalize=True) == [pytest.approx(unit(raw("abc")))]


def test_dimensions_are_cut_before_the_length_is_made_1(vectors: ServerProcess) -> None:
    assert embed(vectors, "abc", dimensions=2) == [pytest.approx(unit(raw("abc")[:2]))]


def test_a_long_input_is_refused_with_both_numbers_or_cut_where_the_request_says_so(vectors: ServerProcess) -> None:
    long = "a" * 40 + "b" * 40
    status, code, message = refusal(vectors, {"inputs": ["fine", long]})
    assert (status, code) == (400, "request.too-long")
    assert "inputs[1] has 80 tokens; this model takes 64" in message
    assert embed(vectors, long, truncate=True, normalize=False) == [raw(long[:64])]
    left = {"truncate": True, "truncation_direction": "Left", "normalize": False}
    assert embed(vectors, long, **left) == [raw(long[-64:])]


def test_texts_long_enough_for_a_thread_come_back_in_order(vectors: ServerProcess) -> None:
    texts = [chr(97 + number % 26) * (1 + number % 64) for number in range(600)]
    assert embed(vectors, *texts, normalize=False) == [raw(each) for each in texts]


def test_requests_at_the_same_time_get_their_own_answers(vectors: ServerProcess) -> None:
    texts = [f"text {number}" for number in range(24)]
    found = in_threads([lambda text=text: embed(vectors, text, normalize=False) for text in texts])
    assert found == [[raw(each)] for each in texts]


# -------------------------------------------------------------------------------------------------------- OpenAI's form


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("abc", ["abc"]),
        (["abc", "z"], ["abc", "z"]),
        ([97, 98, 99], ["abc"]),
        ([[97, 98, 99], [122]], ["abc", "z"]),
    ],
)
def test_openais_client_gets_vectors_of_texts_and_of_ids(client: openai.OpenAI, given: Any, texts: list[str]) -> None:
    for form in ("float", "base64"):
        kind: Any = {"encoding_format": form} if form == "float" else {}  # base64 is what the client asks for by itself
        answer = client.embeddings.create(model="whatever", input=given, **kind)
        assert [item.index for item in answer.data] == list(range(len(texts)))
        assert [item.object for item in answer.data] == ["embedding"] * len(texts)
        for item, text in zip(answer.data, texts, strict=True):
            assert item.embedding == pytest.approx(unit(raw(text)), rel=1e-6)
        n_tokens = sum(map(len, texts))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (n_tokens, n_tokens)


def test_openais_answer_has_every_field_of_the_reference(vectors: ServerProcess) -> None:
    body = {"input": ["ab"], "model": "m", "encoding_format": "base64", "user": "someone", "dimensions": 2}
    for path in ("/v1/embeddings", "/invocations"):
        answer = vectors.post(body, path).json()
        name = vectors.health()["models"][0]["name"]
        data = answer["data"][0]
        assert (answer["object"], answer["model"], data["object"], data["index"]) == ("list", name, "embedding", 0)
        numbers = struct.unpack("<2f", base64.b64decode(data["embedding"]))
        assert list(numbers) == pytest.approx(unit(raw("ab")[:2]))
        assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def test_openais_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="m", input="abc", dimensions=5)
    assert "vectors have 4 numbers" in caught.value.response.json()["error"]["message"]


# ------------------------------------------------------------------------------------------------------- wrong requests


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "request.invalid", "inputs is missing"),
        ([], "request.invalid", "the body must be a JSON object"),
        (b"{", "request.malformed-json", "the body is not JSON"),
        ({"inputs": []}, "request.invalid", "inputs is an empty list"),
        ({"inputs": ["a"] * 2049}, "request.invalid", "inputs has 2049 entries; a request takes 2048"),
        ({"inputs": [1, 2]}, "request.invalid", "inputs must be a text or a list of them"),
        ({"inputs": ["a", ""]}, "request.empty-prompt", "inputs[1] has no tokens"),
        ({"inputs": "a", "normalise": True}, "request.invalid", "Did you mean 'normalize'?"),
        ({"inputs": "a", "parameters": {"dimensions": 0}}, "request.invalid", "parameters.dimensions=0"),
        ({"inputs": "a", "parameters": {"truncate": 1}}, "request.invalid", "parameters.truncate=1"),
        ({"inputs": "a", "parameters": []}, "request.invalid", "parameters must be an object"),
        ({"inputs": "a", "truncate": True, "parameters": {"truncate": True}}, "request.invalid", "truncate is there"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 4}}, "request.wrong-task", "max_new_tokens: for models that"),
        ({"inputs": "a", "stream": True}, "request.wrong-task", "stream: for models that generate text"),
        ({"input": [300]}, "request.unknown-token", "input[0] has the id 300; this model knows 256 ids"),
        ({"input": [[1], []]}, "request.invalid", "input must be a text, a list of texts, a list of token ids"),
        ({"input": [-1]}, "request.invalid", "input must be a text"),
        ({"input": "a", "encoding_format": "hex"}, "request.invalid", "encoding_format='hex'"),
        ({"inputs": "refuse"}, "request.invalid", "it was told to refuse"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_what_is_wrong(
    vectors: ServerProcess, body: Any, code: str, words: str
) -> None:
    status, found, message = refusal(vectors, body)
    assert (status, found) == (400, code)
    assert words in message


def test_a_generating_model_makes_no_vectors_and_says_so(generating: ServerProcess) -> None:
    status, code, message = refusal(generating, {"input": "abc"}, "/v1/embeddings")
    assert (status, code) == (400, "request.wrong-task")
    assert "generates text" in message
    assert generating.generate("abc", max_new_tokens=1) == {"generated_text": "A"}


def test_labels_are_no_vectors(labels: ServerProcess) -> None:
    assert refusal(labels, {"input": "abc"}, "/v1/embeddings")[:2] == (400, "request.wrong-task")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/invocations"])
def test_an_adapter_is_no_word_for_the_base_model(vectors: ServerProcess, path: str) -> None:
    asked = {"X-Amzn-SageMaker-Adapter-Identifier": "legal"}
    answer = vectors.post({"input": "abc"}, path, headers=asked)
    error = answer.json()["error"]
    code = error["code"] if path.startswith("/v1/") else error
    assert (answer.status_code, code) == (400, "request.unsupported")


def test_a_body_may_be_as_large_as_the_model_takes_that_it_names(serve_vectors: Serve, tmp_path: Path) -> None:
    for name, limit_bytes in (("small", 200), ("large", 2000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serving.properties").write_text(f"max_request_size={limit_bytes}\n")
    models = ",".join(f"{name}={tmp_path / name}" for name in ("small", "large"))
    with serve_vectors("task=embed", SERVING_LOAD_MODELS=models) as server:
        body = {"input": ["abc"] * 100}
        assert server.post({**body, "model": "large"}, "/v1/embeddings").status_code == 200
        for more, query in (({"model": "small"}, ""), ({}, "?model_name=small")):
            status, code, message = refusal(server, {**body, **more}, f"/v1/embeddings{query}")
            assert (status, code) == (413, "request.too-large")
            assert "max_request_size is 200" in message


def test_a_batch_transform_job_has_a_line_of_vectors_for_each_record(serve_vectors: Serve) -> None:
    with serve_vectors("task=embed", "normalize=false", SAGEMAKER_BATCH="true") as server:
        lines = b'{"inputs": "abc"}\n{"inputs": ["abc", "de"]}\n{"inputs": "wrong"}\n'
        answer = server.post(lines, headers={"content-type": "application/jsonlines"})
        assert answer.status_code == 200
        one, two, wrong = map(json.loads, answer.text.splitlines())
        assert (one, two) == ([raw("abc")], [raw("abc"), raw("de")])
        assert wrong["error"] == "engine.wrong-output"
        alone = server.post(b'{"inputs": "wrong"}', headers={"content-type": "application/jsonlines"})
        assert (alone.status_code, alone.json()["error"]) == (500, "engine.wrong-output")


@pytest.mark.parametrize(("text", "words"), [("wrong", "0 answers for 1 inputs"), ("nan", "not finite")])
def test_an_engine_that_returns_nonsense_is_told_apart_from_a_wrong_request(
    vectors: ServerProcess, text: str, words: str
) -> None:
    status, code, message = refusal(vectors, {"inputs": text})
    assert (status, code) == (500, "engine.wrong-output")
    assert words in message


# --------------------------------------------------------------------------------------------------------------- labels


def test_labels_come_most_likely_first_in_a_list_for_each_text(labels: ServerProcess) -> None:
    first = [{"label": "LABEL_1", "score": 0.6}, {"label": "LABEL_0", "score": 0.2}, {"label": "LABEL_2", "score": 0.2}]
    second = [{"label": name, "score": pytest.approx(1 / 3)} for name in ("LABEL_0", "LABEL_1", "LABEL_2")]
    assert labels.post({"inputs": "bb"}).json() == first
    assert labels.post({"inputs": ["bb", "x"]}).json() == [first, second]
    assert labels.post({"inputs": ["bb"], "parameters": {"top_k": 1}}).json() == [first[:1]]


# ------------------------------------------------------------------------------------ time, disconnects, death, metrics


def running(server: ServerProcess) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("lmi_running_requests{"))


def test_a_client_that_leaves_cancels_its_call_in_the_worker(vectors: ServerProcess) -> None:
    url = urlsplit(vectors.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(30))
    connection.request("POST", "/invocations", json.dumps({"inputs": "slow"}))
    eventually(lambda: running(vectors) == 1)
    connection.close()
    eventually(lambda: running(vectors) == 0)
    assert embed(vectors, "abc", normalize=False) == [raw("abc")]


def test_a_request_whose_time_runs_out_ends_with_504_and_frees_its_place(serve_vectors: Serve) -> None:
    with serve_vectors("task=embed", "predict_timeout=0.2", "max_rolling_batch_size=1") as server:
        status, code, message = refusal(server, {"inputs": "slow"})
        assert (status, code) == (504, "request.deadline")
        assert "time of 0.2 s" in message
        eventually(lambda: running(server) == 0)
        assert embed(server, "abc", normalize=False) == [raw("abc")]


@pytest.mark.parametrize("command", ["die once", "give up"])
def test_a_request_whose_worker_dies_is_answered_by_the_next_one(
    serve_vectors: Serve, tmp_path: Path, command: str
) -> None:
    with serve_vectors("task=embed", "max_model_len=512") as server:
        before = server.worker_pids()
        text = f"{command} {tmp_path / 'died'}"
        assert embed(server, "abc", text, normalize=False) == [raw("abc"), raw(text)]
        assert server.worker_pids() != before


def test_a_request_that_kills_twice_is_stopped_and_those_beside_it_are_answered(serve_vectors: Serve) -> None:
    with serve_vectors("task=embed") as server:
        answers = in_threads(
            [lambda: refusal(server, {"inputs": "segfault"}), *[lambda: embed(server, "abc", normalize=False)] * 3]
        )
        assert answers[0][:2] == (500, "engine.killed-by-request")
        assert answers[1:] == [[raw("abc")]] * 3


def test_copies_share_the_requests(serve_vectors: Serve) -> None:
    with serve_vectors("task=embed", "max_rolling_batch_size=1", "minWorkers=2") as server:
        url = urlsplit(server.url)
        held = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(30))
        held.request("POST", "/invocations", json.dumps({"inputs": "slow"}))
        eventually(lambda: running(server) == 1)
        assert embed(server, "abc", normalize=False) == [raw("abc")]  # the free copy has fewer reserved tokens
        held.close()


def test_requests_and_their_tokens_are_counted(serve_vectors: Serve) -> None:
    with serve_vectors("task=embed") as server:
        embed(server, "abc", "de")
        refusal(server, {"inputs": "refuse"})
        with server.client() as client:
            text = client.get("/metrics").text
        name = server.health()["models"][0]["name"]
        assert f'lmi_requests_total{{model="{name}",outcome="ok"}} 1.0' in text
        assert f'lmi_requests_total{{model="{name}",outcome="error"}} 1.0' in text
        assert f'lmi_prompt_tokens_total{{model="{name}"}} 11.0' in text, "those of the request that failed, too"


def test_who_asks_is_told_how_long_a_request_took(vectors: ServerProcess) -> None:
    asking = {"X-Amzn-SageMaker-Custom-Attributes": "timings=true"}
    for path, body in [("/invocations", {"inputs": ["abc", "de"]}), ("/v1/embeddings", {"input": ["abc", "de"]})]:
        told = vectors.post(body, path, headers=asking).headers["x-amzn-sagemaker-custom-attributes"]
        found = dict(each.split("=") for each in told.split(";"))
        assert (found["prompt_tokens"], found["output_tokens"], found["model"]) == ("5", "0", "model")
        assert 0 <= float(found["queue_ms"]) <= float(found["total_ms"])


def test_the_command_that_is_printed_when_the_model_is_ready_works(vectors: ServerProcess) -> None:
    curl = vectors.wait_for_line(r"try: curl -s (http://\S+)/invocations .* -d '(.*)'")
    assert len(vectors.post(json.loads(curl[2])).json()) == 1
