# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: valid, complete, and nothing that follows or breaks it makes the server fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    with serve_echo(max_rolling_batch_size=8, max_model_len=512, chat_template=path, tgi_compat="true") as server:
        yield server


def document_of(server: ServerProcess) -> dict[str, Any]:
    with server.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_route_that_answers_is_in_it_with_a_body_that_is_answered(server: ServerProcess) -> None:
    document = document_of(server)
    routes = {
        "/invocations", "/predictions/{model}", "/", "/v1/chat/completions", "/v1/completions", "/v1/responses",
        "/v1/embeddings", "/tokenize", "/detokenize",
    }  # fmt: skip
    assert routes <= set(document["paths"])
    for path, item in document["paths"].items():
        content = item.get("post", {}).get("requestBody", {}).get("content", {})
        example = content.get("application/json", {}).get("example")
        if example is None or path in ("/v1/embeddings", "/detokenize"):  # not of this model
            continue
        answer = server.post({**example}, path.replace("{model}", "model"))
        assert answer.status_code == 200, (path, answer.text)


def test_a_route_has_each_body_that_it_takes(server: ServerProcess) -> None:
    document = document_of(server)
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    names = [each["$ref"].rpartition("/")[2] for each in content["schema"]["anyOf"]]
    assert names == ["Invocation", "ListInvocation", "ChatBody", "CompletionBody", "ResponsesBody"]
    assert set(names) <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["ListInvocation"]["properties"]["inputs"]["type"] == "array"


def test_the_root_is_in_it_where_it_answers_alone(server: ServerProcess, echo: ServerProcess) -> None:
    [answer] = server.post({"inputs": "abc", "parameters": {"max_new_tokens": 3}}, "/").json()
    assert answer["generated_text"] == "abc"
    assert "/" not in document_of(echo)["paths"]
    assert echo.post({"inputs": "abc"}, "/").status_code == 404


def test_the_document_is_valid(server: ServerProcess) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(document_of(server))


@pytest.mark.parametrize("phases", ["examples", pytest.param("coverage,fuzzing", marks=pytest.mark.long)])
def test_no_request_that_can_be_made_of_it_fails_the_server(server: ServerProcess, tmp_path: Path, phases: str) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    report = tmp_path / "report.ndjson"
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json",
        "--checks", "not_a_server_error", "--max-examples", "10", "--phases", phases,
        "--request-timeout", "20", "--suppress-health-check", "all",
        "--seed", "1", "--report", "ndjson", "--report-ndjson-path", str(report),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(200), check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert json.loads(report.read_text().splitlines()[0])
    [answer] = server.post({"inputs": "abc", "parameters": {"max_new_tokens": 3}}).json()
    assert answer["generated_text"] == "abc"
