# SPDX-License-Identifier: Apache-2.0
"""Models that come and go while a server runs: SageMaker's multi-model routes, and DJL Serving's management routes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ServerProcess, eventually, in_threads, serve
from tests.wire.conftest import send

ECHO = "option.rolling_batch=echo\noption.heartbeat_interval=0.05\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as the platform lays them out: NAME/model, each with a serving.properties of its own."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in {
        "a": "", "b": "", "c": "", "slow": "option.step_delay_ms=20\n", "huge": "reserved_memory_mb=999999999\n",
        "broken": "option.step_delay_ms=never\n",
    }.items():  # fmt: skip
        (folder / name / "model").mkdir(parents=True)
        (folder / name / "model" / "serving.properties").write_text(ECHO + more)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A container of a multi-model endpoint, without any model; the backend that is named would miss no files."""
    with serve(environ={"SAGEMAKER_MULTI_MODEL": "true", "OPTION_ROLLING_BATCH": "echo"}, is_ready=False) as process:
        eventually(lambda: process.url, 30)
        eventually(lambda: asked(process, "GET", "/ping").status_code == 200, 30)
        yield process


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        process = request.getfixturevalue("server")
        for model in asked(process, "GET", "/models").json()["models"]:
            asked(process, "DELETE", f"/models/{model['modelName']}")


def asked(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.request(method, path, **options)


def load(server: ServerProcess, store: Path, name: str) -> httpx.Response:
    return asked(server, "POST", "/models", json={"model_name": name, "url": str(store / name / "model")})


def invoke(server: ServerProcess, name: str, text: str = "abc", n: int = 3) -> httpx.Response:
    body = {"inputs": text, "parameters": {"max_new_tokens": n}}
    return asked(server, "POST", f"/models/{name}/invoke", json=body)


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    return str(response.json()["message"])


def test_a_server_without_a_model_is_healthy(server):
    assert asked(server, "GET", "/ping").status_code == 200
    assert asked(server, "GET", "/models").json() == {"models": []}
    refused(invoke(server, "a"), 404, "model.not-found")


def test_a_model_is_loaded_listed_invoked_and_unloaded(server, store):
    assert load(server, store, "a").status_code == 200
    url = str(store / "a" / "model")
    [listed] = asked(server, "GET", "/models").json()["models"]
    assert (listed["modelName"], listed["modelUrl"]) == ("a", url)
    assert asked(server, "GET", "/models/a").json() == {"modelName": "a", "modelUrl": url}
    answer = invoke(server, "a")
    assert (answer.status_code, answer.json()) == (200, {"generated_text": "abc"})
    pids = server.worker_pids()
    assert asked(server, "DELETE", "/models/a").status_code == 200
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    refused(asked(server, "GET", "/models/a"), 404, "model.not-found")
    refused(asked(server, "DELETE", "/models/a"), 404, "model.not-found")
    assert "POST /models loads one" in invoke(server, "a").json()["message"]
    refused(invoke(server, "a"), 404, "model.not-found")


def test_a_name_is_taken_once(server, store):
    load(server, store, "a")
    refused(load(server, store, "a"), 409, "model.exists")


def test_of_two_loads_of_one_name_at_a_time_one_is_taken(server, store):
    statuses = [each.status_code for each in in_threads([lambda: load(server, store, "a")] * 2)]
    assert sorted(statuses) == [200, 409]


def test_models_have_configurations_of_their_own_and_answer_side_by_side(server, store):
    assert [each.status_code for each in in_threads([lambda n=n: load(server, store, n) for n in "abc"])] == [200] * 3
    answers = in_threads([lambda n=n: invoke(server, n, text=n, n=2) for n in "abc"])
    assert [each.json()["generated_text"] for each in answers] == ["aa", "bb", "cc"]
    first = asked(server, "GET", "/models?limit=2").json()
    second = asked(server, "GET", "/models", params={"next_page_token": first["nextPageToken"]}).json()
    names = [each["modelName"] for page in (first, second) for each in page["models"]]
    assert (sorted(names), "nextPageToken" in second) == (["a", "b", "c"], False)


def test_the_usual_routes_find_a_model_by_its_name(server, store):
    load(server, store, "a")
    load(server, store, "b")
    body = {"model": "b", "prompt": "xyz", "max_tokens": 2}
    assert asked(server, "POST", "/v1/completions", json=body).json()["choices"][0]["text"] == "xy"
    refused(asked(server, "POST", "/invocations", json={"inputs": "x"}), 400, "request.no-model")


def test_no_room_is_507_and_harms_nobody(server, store):
    load(server, store, "a")
    told = refused(load(server, store, "huge"), 507, "model.no-room")
    assert "reserved_memory_mb=999999999" in told
    assert [each["modelName"] for each in asked(server, "GET", "/models").json()["models"]] == ["a"]
    assert invoke(server, "a").status_code == 200


def test_a_model_that_cannot_be_loaded_is_told_with_its_problems_and_ping_stays_well(server, store):
    assert "step_delay_ms" in refused(load(server, store, "broken"), 400, "config.invalid")
    assert str(store / "none") in refused(
        asked(server, "POST", "/models", json={"model_name": "x", "url": str(store / "none")}), 400, "model.not-found"
    )
    assert asked(server, "GET", "/ping").status_code == 200
    assert asked(server, "GET", "/models").json() == {"models": []}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model_name": "a"}, "url is missing"),
        ({"model_name": "a", "url": ""}, "url is missing"),
        ({"model_name": "a/b", "url": "/x"}, "model_name=a/b is no name"),
        ({"model_name": "a", "urI": "/x"}, "Did you mean 'url'?"),
        ([], "the body must be a JSON object"),
    ],
)
def test_a_wrong_load_says_what_is_wrong(server, body, told):
    assert told in refused(asked(server, "POST", "/models", json=body), 400, "request.invalid")


def test_an_unload_waits_for_requests_and_takes_no_new_ones(server, store):
    load(server, store, "slow")
    answers: list[httpx.Response] = []
    long = threading.Thread(target=lambda: answers.append(invoke(server, "slow", n=120)))
    long.start()
    eventually(lambda: sum(each["n_requests"] for each in server.workers()) == 1)
    removal = threading.Thread(target=lambda: asked(server, "DELETE", "/models/slow"))
    removal.start()
    eventually(lambda: server.health()["models"][0]["state"] == "draining")
    refused(invoke(server, "slow"), 503, "model.draining")
    for thread in (long, removal):
        thread.join()
    assert (answers[0].status_code, len(answers[0].json()["generated_text"])) == (200, 120)
    assert asked(server, "GET", "/models").json() == {"models": []}


def test_with_a_model_in_a_variable_each_load_is_of_what_it_names_and_a_stop_ends_with_0(store):
    environ = {"SAGEMAKER_MULTI_MODEL": "true", "OPTION_MODEL_ID": str(store / "a" / "model")}
    with serve(environ=environ, is_ready=False) as process:
        eventually(lambda: process.url, 30)
        eventually(lambda: load(process, store, "none").status_code == 400, 30)
        assert load(process, store, "slow").status_code == 200
        connection = send_to(process, "slow")
        process.terminate()
        assert connection.getresponse().status == 200
        assert process.wait_for_end() == 0


def send_to(server: ServerProcess, name: str) -> Any:
    connection = send(server, stream=False, max_new_tokens=100)
    eventually(lambda: sum(each["n_requests"] for each in server.workers()) == 1)
    return connection


# ----------------------------------------------------------------------------------------------------- DJL's management


@pytest.fixture(scope="module")
def managed(store: Path) -> Iterator[tuple[ServerProcess, httpx.Client]]:
    """A server with one model, and a client of its second address."""
    arguments = (f"--models=first={store}/a/model", "-o", "option.heartbeat_interval=0.05")
    with serve(*arguments, environ={"SERVING_MANAGEMENT_ADDRESS": "http://127.0.0.1:0"}) as process:
        address = process.wait_for_line(r"models are managed on (http://\S+)")[1]
        with httpx.Client(base_url=address, timeout=60) as client:
            yield process, client


def group_of(client: httpx.Client, name: str) -> Any:
    [described] = client.get(f"/models/{name}").json()
    [group] = described["models"][0]["workerGroups"] or [{"workers": []}]
    return group


def statuses(client: httpx.Client, name: str) -> list[str]:
    return [each["status"] for each in group_of(client, name)["workers"]]


def test_models_are_managed_at_an_address_of_their_own_alone(managed, store):
    server, client = managed
    refused(asked(server, "POST", "/models", json={"url": str(store / "b" / "model")}), 404, "request.no-route")
    answer = client.post("/models", params={"url": f"{store}/b/model", "model_name": "b", "min_worker": 2})
    assert (answer.status_code, answer.json()["status"]) == (200, 'Model "b" registered.')
    eventually(lambda: statuses(client, "b") == ["READY", "READY"], 30)
    assert group_of(client, "b")["device"] == {"deviceType": "cpu", "deviceId": -1}
    assert client.put("/models/b", params={"min_worker": 1, "max_worker": 1}).status_code == 200
    eventually(lambda: len(statuses(client, "b")) == 1)
    assert asked(server, "POST", "/predictions/b", json={"inputs": "ab"}).status_code == 200
    assert client.delete("/models/b").json() == {"status": 'Model "b" unregistered'}
    names = [each["modelName"] for each in client.get("/models").json()["models"]]
    assert names == ["first"]


def test_copies_are_added_while_requests_run(managed):
    server, client = managed
    assert client.put("/models/first", params={"min_worker": 2}).status_code == 200
    eventually(lambda: [each["state"] for each in server.workers()] == ["ready", "ready"], 30)
    assert client.put("/models/first", params={"min_worker": 1, "max_worker": 1}).status_code == 200
    eventually(lambda: len(server.workers()) == 1)
    answer = client.put("/models/first", params={"min_worker": 3, "max_worker": 2})
    assert "max_worker=2 is less than min_worker=3" in refused(answer, 400, "request.invalid")


def test_a_load_that_nobody_waits_for_goes_on(managed, store):
    _, client = managed
    answer = client.post("/models", params={"url": f"{store}/c/model", "model_name": "c", "synchronous": "false"})
    assert answer.status_code == 202
    eventually(lambda: client.get("/models/c").status_code == 200, 30)
    eventually(lambda: statuses(client, "c") == ["READY"], 30)
    client.delete("/models/c")


def test_while_a_model_is_added_the_others_keep_the_server_healthy(managed, store):
    server, client = managed
    loading = threading.Thread(target=lambda: client.post("/models", params={"url": f"{store}/b/model"}))
    loading.start()
    while loading.is_alive():
        assert asked(server, "GET", "/ping").status_code == 200
    client.delete("/models/model")


def test_the_level_of_the_log_changes(managed):
    _, client = managed
    assert client.post("/server/logging", params={"level": "debug"}).json() == {"status": "OK"}
    assert client.post("/server/logging", params={"level": "info"}).status_code == 200
    refused(client.post("/server/logging", params={"level": "loud"}), 400, "request.invalid")
    assert "lmi_requests" in client.get("/server/metrics").text
