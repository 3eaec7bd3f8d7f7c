# SPDX-License-Identifier: Apache-2.0
"""Which adapter answers a request, and that no other name is answered by the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess
from tests.wire.adapter_servers import IDENTIFIER, asked, folder, refused, server, text_of

__all__ = ["folder", "server"]

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


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
