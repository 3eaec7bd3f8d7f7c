# SPDX-License-Identifier: Apache-2.0
"""Adapters over HTTP: which one answers, and the routes that list, load and remove them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.faults.conftest import FaultyServer
from tests.servers import ServerProcess, eventually, in_threads

IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TINY = ("-o", "offset=-33")
"""The tokenizer of a tiny model begins with the letter 33."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two adapters beside it, and one elsewhere."""
    path = write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")
    for name in ("fr", "de"):
        write_tiny_adapter(path / "adapters" / name, path)
    write_tiny_adapter(path.parent / "more" / "it", path)
    return path


@pytest.fixture(scope="module")
def server(serve_faulty: FaultyServer, folder: Path) -> Iterator[ServerProcess]:
    with serve_faulty(str(folder), "-o", "step_s=0.001", *TINY) as process:
        yield process


def text_of(server: ServerProcess, query: str = "", headers: dict[str, str] | None = None, **body: Any) -> str:
    wanted = {"inputs": "abc", "parameters": {"max_new_tokens": 6}, **body}
    response = server.post(wanted, f"/invocations{query}", headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["generated_text"])


def asked(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.request(method, path, **options)


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    return str(response.json()["message"])


def names(server: ServerProcess) -> list[str]:
    return [each["name"] for each in asked(server, "GET", "/adapters").json()["adapters"]]


# ---------------------------------------------------------------------------------------------------------- requests


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


@pytest.mark.parametrize(
    ("query", "headers", "body", "adapter"),
    [
        ("", {}, {"adapters": "fr"}, "fr"),
        ("", {}, {"adapters": ["fr"]}, "fr"),
        ("", {IDENTIFIER: "fr"}, {"adapters": "de"}, "fr"),
        ("?adapter=fr", {}, {}, "fr"),
        ("?adapter=fr", {}, {"adapters": "de"}, "de"),
        ("?adapter=fr", {}, {"adapters": ""}, ""),
        ("", {"adapter": "de"}, {}, "de"),
        ("", {ATTRIBUTES: "trace=1;adapter=de"}, {}, "de"),
    ],
)
def test_a_request_is_answered_by_the_adapter_it_names(
    server: ServerProcess, query: str, headers: dict[str, str], body: dict[str, Any], adapter: str
) -> None:
    assert text_of(server, query, headers, **body) == (adapter or "abc") * (3 if adapter else 2)


def test_each_text_of_a_list_is_answered_by_the_adapter_named_for_it(server: ServerProcess) -> None:
    body = {"inputs": ["abc", "abc", "xyz"], "parameters": {"max_new_tokens": 6}}
    answers = server.post({**body, "adapters": ["fr", "", "de"]}).json()
    assert [each["generated_text"] for each in answers] == ["frfrfr", "abcabc", "dedede"]
    answers = server.post(body, headers={IDENTIFIER: "de"}).json()
    assert [each["generated_text"] for each in answers] == ["dedede"] * 3


def test_one_text_of_a_list_with_an_unknown_adapter_fails_alone(server: ServerProcess) -> None:
    body = {"inputs": ["abc", "abc"], "parameters": {"max_new_tokens": 6}, "adapters": ["fra", "fr"]}
    first, last = server.post(body).json()
    assert (first["error"], first["code"], last) == ("adapter.unknown", 404, {"generated_text": "frfrfr"})


def test_a_stream_is_answered_by_the_adapter_it_names(server: ServerProcess) -> None:
    response = server.post({"inputs": "abc", "parameters": {"max_new_tokens": 6}, "adapters": "fr", "stream": True})
    assert '"frfrfr"' in response.text.splitlines()[-1]


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (
            {"adapters": "fra"},
            404,
            "adapter.unknown",
            "has no adapter 'fra'. Did you mean 'fr'? Adapters here: de, fr.",
        ),
        ({"adapters": ["fr", "de"]}, 400, "request.invalid", "adapters=['fr', 'de'] has 2 names for one text"),
        ({"adapters": [7]}, 400, "request.invalid", "adapters.0=7"),
        ({"adapters": {}}, 400, "request.invalid", "adapters={}"),
    ],
)
def test_an_adapter_that_is_not_there_is_refused(
    server: ServerProcess, body: dict[str, Any], status: int, code: str, said: str
) -> None:
    assert said in refused(server.post({"inputs": "abc", **body}), status, code)


def test_an_unknown_adapter_is_refused_however_it_is_named(server: ServerProcess) -> None:
    for query, headers in (("?adapter=x", {}), ("", {IDENTIFIER: "x"}), ("", {ATTRIBUTES: "adapter=x"})):
        response = server.post({"inputs": "abc"}, f"/invocations{query}", headers=headers)
        assert "has no adapter 'x'" in refused(response, 404, "adapter.unknown")


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "abc"},
        {"inputs": ["abc", "abc"]},
        {"inputs": "abc", "stream": True},
        {"prompt": "abc", "max_tokens": 4},
        {"messages": [{"role": "user", "content": "abc"}], "model": None},
        {"model": "model", "input": "abc"},
        {"inputs": "abc", "adapters": "fr"},
    ],
)
def test_neither_an_unknown_name_nor_an_empty_one_of_the_platform_means_the_model(
    server: ServerProcess, body: dict[str, Any]
) -> None:
    for name, said in (("frr", "Did you mean 'fr'?"), ("", f"{IDENTIFIER.lower()} is empty, and names no adapter")):
        response = server.post(body, headers={IDENTIFIER: name})
        assert response.status_code == 404, response.text
        assert "adapter.unknown" in response.text
        assert said in response.text


def test_the_platforms_header_counts_whatever_the_body_says_of_a_model(server: ServerProcess) -> None:
    body = {"prompt": "abc", "max_tokens": 4, "temperature": 0}
    for path in ("/invocations", "/v1/completions"):
        for more in ({}, {"model": None}, {"model": "de"}, {"model": "lmi"}, {"adapters": "de"}):
            response = server.post({**body, **more}, path, headers={IDENTIFIER: "fr"})
            assert response.json()["choices"][0]["text"] == "frfr", response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "abc", "max_tokens": 4, "temperature": 0}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 4}),
        ("/v1/responses", {"input": "abc", "max_output_tokens": 16}),
        ("/invocations", {"prompt": "abc", "max_tokens": 4, "temperature": 0}),
    ],
)
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_where_adapters_are_models_a_name_that_nobody_has_is_refused(
    server: ServerProcess, folder: Path, path: str, body: dict[str, Any], more: dict[str, Any]
) -> None:
    response = server.post({**body, **more, "model": "my-adapter"}, path)
    assert response.status_code == 404, response.text
    assert "there is neither a model nor an adapter 'my-adapter'. Models here: model, de, fr." in response.text


def test_a_model_is_called_by_its_name_its_place_or_not_at_all(server: ServerProcess, folder: Path) -> None:
    body = {"prompt": "abc", "max_tokens": 3, "temperature": 0}
    texts = {"fr": "frf", "model": "abc", str(folder): "abc", None: "abc"}
    for name, text in texts.items():
        response = server.post({**body, "model": name}, "/v1/completions")
        assert response.json()["choices"][0]["text"] == text, response.text


def test_an_alias_is_what_messages_call_an_adapter(server: ServerProcess, folder: Path) -> None:
    alias = {"X-Amzn-SageMaker-Adapter-Alias": "italian"}
    body = {"name": "ic:7", "src": "../more/it"}
    loaded = asked(server, "POST", "/adapters", json=body, headers=alias)
    assert [each.get("alias") for each in loaded.json()["adapters"]] == [None, None, "italian"]
    assert text_of(server, headers={IDENTIFIER: "ic:7", **alias}) == "ic:7ic"
    again = asked(server, "POST", "/adapters", json=body, headers=alias)
    assert "has an adapter 'italian' (ic:7) already" in refused(again, 409, "adapter.exists")
    for path in ("/adapters/ic%3A7", "/adapters/ic:7"):
        assert asked(server, "GET", path).json()[0]["name"] == "ic:7"
    assert asked(server, "DELETE", "/models/model/adapters/ic%3A7").json()["status"] == "Adapter ic:7 unregistered"
    response = server.post({"inputs": "abc"}, headers={IDENTIFIER: "ic:7", **alias})
    assert "has no adapter 'italian' (ic:7)" in refused(response, 404, "adapter.unknown")


def test_requests_are_counted_by_their_adapter(server: ServerProcess) -> None:
    def counted() -> float:
        lines = asked(server, "GET", "/metrics").text.splitlines()
        wanted = 'lmi_adapter_requests_total{adapter="de",model="model",outcome="ok"} '
        return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)

    before = counted()
    text_of(server, adapters="de")
    text_of(server)
    assert counted() == before + 1


# ------------------------------------------------------------------------------------------------------------ routes


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
    with serve_faulty(str(folder), "-o", "step_s=0.01", *TINY) as server:
        started: list[str] = []

        def stream() -> str:
            body = {"inputs": "abc", "parameters": {"max_new_tokens": 100}, "adapters": "fr", "stream": True}
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
        assert ("fr" * 50 in last, status, "is being removed" in message) == (True, 200, True)
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
    with serve_faulty("-o", "step_s=0.001", *TINY, SERVING_LOAD_MODELS=models) as server:
        listed = [each["id"] for each in asked(server, "GET", "/v1/models").json()["data"]]
        assert sorted(listed) == ["de", "de", "fr", "one", "two"]

        def answer(model: str) -> httpx.Response:
            return server.post({"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0}, "/v1/completions")

        assert answer("fr").json()["choices"][0]["text"] == "frfr"
        assert answer("one").json()["choices"][0]["text"] == answer("two").json()["choices"][0]["text"] != "frfr"
        for name in ("de", "it"):  # which of the two, and none
            assert (answer(name).status_code, answer(name).json()["error"]["code"]) == (404, "model.not-found")


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
