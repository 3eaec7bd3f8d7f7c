# SPDX-License-Identifier: Apache-2.0
"""The times of a request in the header of its answer, in every schema, for who asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ServerProcess, in_threads, serve
from tests.wire.conftest import serve_echo
from tests.wire.test_openai_chat import TEMPLATE

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
ASKING = {ATTRIBUTES: "timings=true"}
PROMPT = "hello"
STEP_MS = 20

WHOLE = ["queue_ms", "ttft_ms", "total_ms", "prompt_tokens", "output_tokens", "model", "request_id"]
BEGUN = ["queue_ms", "ttft_ms", "prompt_tokens", "model", "request_id"]


def timings(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 200, response.text
    return dict(each.split("=") for each in response.headers[ATTRIBUTES].split(";"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """20 ms a token, two requests at a time."""
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    with serve_echo(step_delay_ms=STEP_MS, max_rolling_batch_size=2, chat_template=path) as server:
        yield server


OWN: dict[str, Any] = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}
BODIES: list[tuple[str, dict[str, Any], int]] = [
    ("/invocations", OWN, 1),
    ("/predictions/model", OWN, 1),
    ("/invocations", {**OWN, "inputs": [PROMPT, PROMPT]}, 2),
    ("/v1/completions", {"model": "model", "prompt": PROMPT, "max_tokens": 5}, 1),
    ("/v1/completions", {"model": "model", "prompt": [PROMPT, PROMPT], "max_tokens": 5}, 2),
    ("/v1/chat/completions",
     {"model": "model", "messages": [{"role": "user", "content": PROMPT}], "max_completion_tokens": 5}, 1),
    ("/v1/responses", {"model": "model", "input": PROMPT, "max_output_tokens": 5}, 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "n"), BODIES)
def test_a_whole_answer_tells_all_its_times(server: ServerProcess, path: str, body: dict[str, Any], n: int) -> None:
    found = timings(server.post(body, path, headers={**ASKING, "x-request-id": "mine"}))
    assert list(found) == WHOLE
    assert (found["prompt_tokens"], found["output_tokens"]) == (str(5 * n), str(5 * n))
    assert (found["model"], found["request_id"]) == ("model", "mine")
    queue_ms, ttft_ms, total_ms = (float(found[name]) for name in WHOLE[:3])
    assert 0 <= queue_ms < ttft_ms
    assert ttft_ms >= STEP_MS
    assert total_ms > ttft_ms  # by 4 steps, unless the first token was long on its way
    assert total_ms >= 5 * STEP_MS - 0.1  # told to a tenth


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, n in BODIES if n == 1])
def test_a_stream_tells_what_is_known_at_its_first_token(
    server: ServerProcess, path: str, body: dict[str, Any]
) -> None:
    found = timings(server.post({**body, "stream": True}, path, headers=ASKING))
    assert list(found) == BEGUN
    assert found["prompt_tokens"] == "5"
    assert float(found["ttft_ms"]) >= STEP_MS


def test_what_a_request_waited_for_a_place_is_told(server: ServerProcess) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 20}}
    answers = in_threads([lambda: server.post(body, headers=ASKING)] * 3)
    first, second, last = sorted(float(timings(each)["queue_ms"]) for each in answers)
    assert last >= 10 * STEP_MS, "two run, and the third waits for one of them"
    assert second < last - 5 * STEP_MS, (first, second, last)


@pytest.mark.parametrize("value", [None, "timings=false", "deadline_s=30", "opaque"])
def test_nobody_else_is_told(server: ServerProcess, value: str | None) -> None:
    headers = {} if value is None else {ATTRIBUTES: value}
    answer = server.post(OWN, headers=headers)
    assert answer.status_code == 200
    assert ATTRIBUTES not in answer.headers


def test_a_request_that_was_never_admitted_has_no_times(server: ServerProcess) -> None:
    answer = server.post({"inputs": ""}, headers=ASKING)
    assert answer.status_code == 400
    assert ATTRIBUTES not in answer.headers


def test_beside_a_deadline_they_are_told_as_well(server: ServerProcess) -> None:
    found = timings(server.post(OWN, headers={ATTRIBUTES: "deadline_s=30;timings=true"}))
    assert found["output_tokens"] == "5"


def test_a_function_of_the_models_own_is_told_of_as_well_behind_what_it_says_itself(tmp_path: Path) -> None:
    lines = ["from djl_python import Output", "", "def handle(inputs):", "    answer = Output().add('done')"]
    lines += [f"    answer.add_property({ATTRIBUTES!r}, 'shard=7')", "    return answer", ""]
    (tmp_path / "model.py").write_text("\n".join(lines))
    with serve(str(tmp_path)) as server:
        found = timings(server.post({}, headers=ASKING))
        assert server.post({}).headers[ATTRIBUTES] == "shard=7"
    assert list(found) == ["shard", *(name for name in WHOLE if name != "ttft_ms")]
    assert 0 <= float(found["queue_ms"]) <= float(found["total_ms"])
