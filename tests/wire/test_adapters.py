# SPDX-License-Identifier: Apache-2.0
"""Adapters over HTTP: the routes that list, load and remove them, and servers that start with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.faults.conftest import FaultyServer
from tests.servers import ServerProcess, eventually, in_threads
from tests.wire.adapter_servers import IDENTIFIER, TINY, asked, folder, refused, server, text_of

__all__ = ["folder", "server"]


def names(server: ServerProcess) -> list[str]:
    return [each["name"] for each in asked(server, "GET", "/adapters").json()["adapters"]]


def test_the_adapters_beside_a_model_are_loaded_before_it_is_ready(server: ServerProcess, folder: Path) -> None:
    shown = [
        {
            "name": name,
            "src": str(folder / "adapters" / name),
            "preload": True,
            "pin": False,
            "state": "loaded",
            "requests": 0,
        }
        for name in ("de", "fr")
    ]
    assert asked(server, "GET", "/models/model/adapters").json() == {"adapters": shown}
    assert asked(server, "GET", "/models/model/adapters/fr").json() == shown[1:]
    log = server.output
    assert log.index("load adapter de") < log.index("load adapter fr") < log.index("is ready")


def test_an_adapter_that_is_only_registered_is_loaded_by_its_first_request(server: ServerProcess, folder: Path) -> None:
    src = str(folder.parent / "more" / "it")
    query = {"name": "late", "src": src, "preload": "false", "pin": "FALSE"}
    [*_, shown] = asked(server, "POST", "/adapters", params=query).json()["adapters"]
    assert (shown["name"], shown["preload"], shown["pin"], shown["state"]) == ("late", False, False, "registered")
    assert "late" in [each["id"] for each in asked(server, "GET", "/v1/models").json()["data"]]
    assert "load adapter late" not in server.output
    answers = in_threads([lambda: text_of(server, adapters="late") for _ in range(4)])
    assert answers == ["latela"] * 4
    assert asked(server, "GET", "/adapters/late").json()[0]["state"] == "loaded"
    assert asked(server, "DELETE", "/adapters/late").status_code == 200


def test_an_adapter_is_pinned_and_let_go_by_an_update(server: ServerProcess, folder: Path) -> None:
    src = str(folder.parent / "more" / "it")
    assert asked(server, "POST", "/adapters", json={"name": "it", "src": src, "preload": False}).status_code == 200
    for options in ({"params": {"pin": "true"}}, {"json": {"pin": False, "preload": True}}):
        answer = asked(server, "POST", "/models/model/adapters/it/update", **options)
        assert answer.json()["status"] == "Adapter it updated", answer.text
        [shown] = asked(server, "GET", "/adapters/it").json()
        is_pinned = "params" in options
        assert (shown["pin"], shown["state"]) == (is_pinned, "loaded")
        signs = list((folder.parent / "more" / "it").glob("pinned-*"))
        assert [sign.name for sign in signs] == [f"pinned-{pid}" for pid in server.worker_pids() if is_pinned]
    refused(asked(server, "POST", "/adapters/no/update", json={"pin": True}), 404, "adapter.unknown")
    response = asked(server, "POST", "/adapters/it/update", json={"src": "/other"})
    assert "src is no option of an adapter" in refused(response, 400, "request.invalid")
    assert asked(server, "DELETE", "/adapters/it").status_code == 200


def test_an_adapter_comes_and_goes_while_the_model_runs(server: ServerProcess, folder: Path) -> None:
    src = str(folder.parent / "more" / "it")
    loaded = asked(server, "POST", "/models/model/adapters", params={"name": "it", "src": src})
    assert (loaded.status_code, loaded.json()["status"]) == (200, "Adapter it registered")
    assert [each["name"] for each in loaded.json()["adapters"]] == names(server) == ["de", "fr", "it"]
    assert (text_of(server, adapters="it"), text_of(server)) == ("ititit", "abcabc")
    again = asked(server, "POST", "/adapters", json={"name": "it", "src": src})
    assert f"has an adapter 'it' already: {src}, loaded" in refused(again, 409, "adapter.exists")
    own = asked(server, "POST", "/adapters", json={"name": "model", "src": src})
    assert "the model itself is called 'model'" in refused(own, 409, "adapter.exists")
    removed = asked(server, "DELETE", "/models/model/adapters/it")
    assert (removed.status_code, removed.json()["status"]) == (200, "Adapter it unregistered")
    assert [each["name"] for each in removed.json()["adapters"]] == names(server) == ["de", "fr"]
    refused(server.post({"inputs": "abc", "adapters": "it"}), 404, "adapter.unknown")
    for method in ("GET", "DELETE"):
        refused(asked(server, method, "/models/model/adapters/it"), 404, "adapter.unknown")
    assert text_of(server, adapters="fr") == "frfrfr"


@pytest.mark.parametrize("src", ["adapters/fr", "file://{}/adapters/fr", "{}/../more/it"])
def test_a_folder_is_named_by_its_path_or_relative_to_the_model(server: ServerProcess, folder: Path, src: str) -> None:
    body = {"name": "new", "src": src.format(folder), "preload": True, "pin": "false"}
    assert asked(server, "POST", "/adapters", json=body).status_code == 200
    assert asked(server, "DELETE", "/adapters/new").status_code == 200


def spoilt(folder: Path, target: Path, *lost: str, **config: Any) -> str:
    """A copy of an adapter without some files, or with another rank."""
    write_tiny_adapter(target, folder, **config)
    for name in lost:
        (target / name).unlink()
    return str(target)


def test_an_adapter_with_mistakes_is_refused_before_the_engine_sees_it(
    server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    weights = "adapter_model.safetensors"
    pickle = spoilt(folder, tmp_path / "pickle", weights)
    (tmp_path / "pickle" / "adapter_model.bin").write_bytes(b"\x80\x02.")
    cut = spoilt(folder, tmp_path / "cut")
    (tmp_path / "cut" / weights).write_bytes((folder / "adapters" / "fr" / weights).read_bytes()[:-4])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    cases = [
        (
            spoilt(folder, tmp_path / "rank", rank=16),
            "adapter.invalid",
            "adapter 'x' has rank 16, and max_lora_rank is 8",
        ),
        (spoilt(folder, tmp_path / "bare", weights), "adapter.invalid", "has no weights"),
        (spoilt(folder, tmp_path / "odd", "adapter_config.json"), "adapter.invalid", "has no adapter_config.json"),
        (pickle, "adapter.invalid", "has adapter_model.bin alone, and a running model takes no pickles"),
        (cut, "adapter.invalid", "[weights.truncated]"),
        (str(tmp_path / "empty"), "adapter.invalid", "adapter 'x' has no files"),
        (str(tmp_path / "file"), "adapter.bad-source", f"'{tmp_path}/file' is not a folder"),
        ("/no/such", "adapter.bad-source", "there is no folder '/no/such'"),
        ("", "adapter.bad-source", "src='' names no place"),
        ("a/" + "x" * 5000, "adapter.bad-source", "src has 5002 characters and names no place"),
        ("/" + "x" * 4000, "adapter.bad-source", "there is no folder"),
        ("x\0y", "adapter.bad-source", "names no place"),
        (5, "adapter.bad-source", "src=5 names no place"),
    ]
    for src, code, said in cases:
        message = refused(asked(server, "POST", "/adapters", json={"name": "x", "src": src}), 400, code)
        assert said in message
    assert names(server) == ["de", "fr"]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"src": "/a"}, "request.invalid", "name is missing"),
        ({}, "request.invalid", "name and src is missing"),
        ({"name": "x", "src": "/a", "srce": 1}, "request.invalid", "srce is no option of an adapter. Did you mean"),
        ({"name": "x", "src": "/a", "pin": "yes"}, "request.invalid", "pin=yes is neither true nor false"),
        ({"name": "x", "src": "/a", "preload": 1}, "request.invalid", "preload=1 is neither true nor false"),
        ({"name": "a/b", "src": "/a"}, "adapter.bad-name", "name='a/b' cannot be the name"),
        ({"name": "..", "src": "/a"}, "adapter.bad-name", "name='..'"),
        ({"name": "", "src": "/a"}, "adapter.bad-name", "name=''"),
        ({"name": "x" * 129, "src": "/a"}, "adapter.bad-name", "1 to 128"),
        ({"name": ["x"], "src": "/a"}, "adapter.bad-name", "name=['x']"),
        (["x"], "request.invalid", "must be a JSON object"),
        (b"{", "request.malformed-json", "is not JSON"),
    ],
)  # fmt: skip
def test_a_load_that_is_asked_for_in_the_wrong_way_is_refused(
    server: ServerProcess, body: Any, code: str, said: str
) -> None:
    assert said in refused(server.post(body, "/adapters"), 400, code)


def test_a_body_that_is_much_too_long_is_refused(server: ServerProcess) -> None:
    message = refused(server.post(b'"' + b"x" * (1 << 17) + b'"', "/adapters"), 413, "request.too-large")
    assert "131074 bytes, the limit of this route is 65536" in message


def test_the_list_comes_in_pages(server: ServerProcess) -> None:
    page = asked(server, "GET", "/adapters?limit=1").json()
    assert ([each["name"] for each in page["adapters"]], page["next_page_token"]) == (["de"], "1")
    page = asked(server, "GET", "/adapters?limit=1&next_page_token=1").json()
    assert ([each["name"] for each in page["adapters"]], "next_page_token" in page) == (["fr"], False)
    for query in ("limit=101", "limit=few", "next_page_token=3", "next_page_token=-1", f"limit={'9' * 5000}"):
        message = refused(asked(server, "GET", f"/adapters?{query}"), 400, "request.invalid")
        assert f"{query[:30]}" in message
        assert len(message) < 200
    assert len(asked(server, "GET", f"/adapters?limit={'0' * 5000}1").json()["adapters"]) == 1


def test_a_model_that_is_not_there_has_no_adapters(server: ServerProcess) -> None:
    refused(asked(server, "GET", "/models/modle/adapters"), 404, "model.not-found")


def test_removing_an_adapter_ends_no_stream(serve_faulty: FaultyServer, folder: Path) -> None:
    with serve_faulty(str(folder), *TINY, "-o", "step_s=0.01") as server:
        started: list[str] = []

        def stream() -> str:
            body = {"inputs": "abc", "parameters": {"max_new_tokens": 240}, "adapters": "fr", "stream": True}
            with server.client() as client, client.stream("POST", "/invocations", json=body) as response:
                lines = response.iter_lines()
                started.append(next(lines))
                return list(lines)[-1]

        def remove() -> int:
            eventually(lambda: started)
            status = asked(server, "DELETE", "/adapters/fr").status_code
            ended = 'lmi_requests_total{model="model",outcome="ok"} 1.0'
            eventually(lambda: ended in asked(server, "GET", "/metrics").text)
            assert 'adapter="fr"' not in asked(server, "GET", "/metrics").text, "what was counted of it is gone with it"
            return status

        def refuse() -> str:
            eventually(lambda: asked(server, "GET", "/adapters/fr").json()[0]["state"] == "draining")
            return refused(server.post({"inputs": "abc", "adapters": "fr"}), 404, "adapter.unknown")

        last, status, message = in_threads([stream, remove, refuse])
        assert ("fr" * 120 in last, status, "is being removed" in message) == (True, 200, True)
        assert names(server) == ["de"]


def test_a_start_with_an_adapter_that_cannot_be_loaded_ends_with_its_name(
    serve_faulty: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "llama"))
    (copy / "adapters" / "fr" / "fault.txt").write_text("refuse")
    with serve_faulty(str(copy), is_ready=False) as server:
        assert server.wait_for_end(60) == 1
    cause = (
        f"adapter.not-loadable: adapter 'fr' could not be loaded from {copy}/adapters/fr: these matrices do not fit."
    )
    assert f"cause:    {cause}" in server.output
    assert "remedy:   Train them again" in server.output


def test_an_adapter_is_a_model_where_several_are_served(
    serve_faulty: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    shutil.rmtree(other / "adapters" / "fr")
    models = f"one={folder},two={other}"
    with serve_faulty(*TINY, SERVING_LOAD_MODELS=models) as server:
        listed = [each["id"] for each in asked(server, "GET", "/v1/models").json()["data"]]
        assert sorted(listed) == ["de", "de", "fr", "one", "two"]

        def answer(model: str) -> httpx.Response:
            return server.post({"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0}, "/v1/completions")

        assert answer("fr").json()["choices"][0]["text"] == "frfr"
        assert answer("one").json()["choices"][0]["text"] == answer("two").json()["choices"][0]["text"] != "frfr"
        for name in ("de", "it"):  # which of the two, and none
            assert (answer(name).status_code, answer(name).json()["error"]["code"]) == (404, "model_not_found")


def test_adapters_that_are_switched_off_are_not_loaded_and_not_answered_for(
    serve_faulty: FaultyServer, folder: Path
) -> None:
    with serve_faulty(str(folder), "-o", "enable_lora=false") as server:
        assert "load adapter" not in server.output
        assert names(server) == []
        message = refused(server.post({"inputs": "abc", "adapters": "fr"}), 400, "request.unsupported")
        assert message.endswith(
            "enable_lora of model 'model' is off. Set option.enable_lora=true and start the server again."
        )
        response = asked(server, "POST", "/adapters", json={"name": "x", "src": "adapters/fr"})
        refused(response, 400, "request.unsupported")


def test_a_backend_without_adapters_loads_none_and_names_one_that_would(
    serve_faulty: FaultyServer, tmp_path: Path
) -> None:
    with serve_faulty("-o", "rolling_batch=echo") as server:
        assert names(server) == []
        response = asked(server, "POST", "/adapters", json={"name": "fr", "src": str(tmp_path)})
        message = refused(response, 400, "request.unsupported")
        assert "adapter='fr' was asked, but backend 'echo' has no adapters" in message
        assert "faulty" in message


def test_adapters_beside_a_model_that_do_not_fit_it_end_the_start_in_seconds(
    serve_faulty: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    wide = write_tiny("llama", tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "hidden_size": 128, "num_hidden_layers": 3}))
    copy = Path(shutil.copytree(folder, tmp_path / "llama"))
    write_tiny_adapter(copy / "adapters" / "fr", wide)
    with serve_faulty(str(copy), is_ready=False) as server:
        assert server.wait_for_end(60) == 2
    assert "[adapter.shape] adapter 'fr' was made for matrices of other sizes than this model's" in server.output
    assert "[adapter.unknown-modules] adapter 'fr' changes model.layers.2.self_attn.q_proj" in server.output
    assert "worker" not in server.output


def test_an_adapter_of_one_model_is_none_of_another_and_goes_with_its_own(
    serve_faulty: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_tiny("llama", tmp_path / name / "model")
        (tmp_path / name / "model" / "serving.properties").write_text("option.step_s=0.001\noption.offset=-33\n")
    with serve_faulty(SAGEMAKER_MULTI_MODEL="true", is_ready=False) as server:
        eventually(lambda: server.url, 30)

        def load(name: str) -> None:
            wanted = {"model_name": name, "url": str(tmp_path / name / "model")}
            assert asked(server, "POST", "/models", json=wanted).status_code == 200

        def invoke(name: str, adapter: str = "fr") -> httpx.Response:
            body = {"inputs": "abc", "parameters": {"max_new_tokens": 4}}
            return server.post(body, f"/models/{name}/invoke", headers={IDENTIFIER: adapter})

        for name in ("a", "b"):
            load(name)
        wanted = {"name": "fr", "src": str(folder / "adapters" / "fr")}
        assert asked(server, "POST", "/models/a/adapters", json=wanted).status_code == 200
        refused(asked(server, "POST", "/adapters", json=wanted), 400, "request.no-model")
        assert invoke("a").json() == {"generated_text": "frfr"}
        assert "model 'b' has no adapter 'fr'. It has none." in refused(invoke("b"), 404, "adapter.unknown")
        assert asked(server, "POST", "/models/b/adapters", json=wanted).status_code == 200
        assert 'adapter="fr",model="a"' in asked(server, "GET", "/metrics").text
        assert asked(server, "DELETE", "/models/a").status_code == 200
        assert 'adapter="fr",model="a"' not in asked(server, "GET", "/metrics").text
        load("a")
        assert asked(server, "GET", "/models/a/adapters").json() == {"adapters": []}
        refused(invoke("a"), 404, "adapter.unknown")
        assert invoke("b").json() == {"generated_text": "frfr"}
