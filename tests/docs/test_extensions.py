# SPDX-License-Identifier: Apache-2.0
"""The example extensions that work on text and HTTP, switched on in real servers, and what the tutorial says of all."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from examples.extensions import guardrail
from lmi.api import SamplingParams, TextRequest
from tests.docs.conftest import FOLDER, Serve, streamed
from tests.servers import ServerProcess, eventually, serve

PAGE = Path(__file__).parents[2] / "docs" / "write-an-extension.md"
COMPLETION = {"x-schema": "completion"}


@pytest.fixture(scope="module")
def server(serve_with: Serve) -> Iterator[ServerProcess]:
    """With what needs nothing of the worker."""
    with serve_with("guardrail,limits_route,completion_schema", max_model_len=512) as process:
        yield process


def whole(server: ServerProcess, prompt: str, **parameters: Any) -> str:
    return str(server.generate(prompt, **parameters)["generated_text"])


def test_every_example_is_an_entry_point_and_every_entry_point_an_example(entry_points: dict[str, str]) -> None:
    modules = {value.partition(":")[0].rpartition(".")[2] for value in entry_points.values()}
    assert modules == {file.stem for file in FOLDER.glob("*.py")} - {"__init__"}


def test_every_example_is_short_enough_to_be_read_at_once() -> None:
    n_lines = {file.name: len(file.read_text().splitlines()) for file in FOLDER.glob("*.py")}
    assert {name: n for name, n in n_lines.items() if n >= 80} == {}


def test_the_log_says_which_extensions_are_on_and_in_which_order(server: ServerProcess) -> None:
    server.wait_for_line(r"extensions: guardrail, limits_route, completion_schema$")


# ----------------------------------------------------------------------------------------------------- guardrail


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_guardrail_refuses_a_prompt_with_a_private_key(server: ServerProcess, stream: bool) -> None:
    response = server.post({"inputs": "is -----BEGIN RSA PRIVATE KEY-----\nMIIE ok?", "stream": stream})
    assert (response.status_code, response.json()["error"]) == (400, "guardrail.private-key")
    assert "at character 3. Take it out" in response.json()["message"]
    assert "MIIE" not in response.text


@pytest.mark.parametrize(
    ("prompt", "n_tokens", "text"),
    [
        ("to bob@mail.co, now ", 20, "to [address], now "),
        ("to bob@mail.co. ", 16, "to [address]. "),
        ("to bob@mail.co ", 14, "to [address]"),
        ("to bob@mail.co ", 11, "to bob@mail"),
        ("a@b.co c@d.co ", 14, "[address] [address] "),
        ("nothing to see ", 15, "nothing to see "),
    ],
)
def test_guardrail_cuts_addresses_out_of_an_answer(
    server: ServerProcess, prompt: str, n_tokens: int, text: str
) -> None:
    assert whole(server, prompt, max_new_tokens=n_tokens) == text
    assert "".join(streamed(server, prompt, max_new_tokens=n_tokens)) == text


def test_guardrail_holds_back_what_may_become_an_address_and_no_more(server: ServerProcess) -> None:
    pieces = streamed(server, "to a@b.co, so ", max_new_tokens=14)
    assert pieces == ["", "", "to ", "", "", "", "", "", "", "[address],", " ", "", "", "so "]


def test_guardrail_gives_what_it_held_back_when_a_stop_sequence_ends_the_text(server: ServerProcess) -> None:
    assert whole(server, "mail bob|", max_new_tokens=50, stop_sequences=["|"]) == "mail bob"
    assert "".join(streamed(server, "mail a@b.co|", max_new_tokens=50, stop_sequences=["|"])) == "mail [address]"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(text=st.text("ab@.- ,", max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_guardrail_cuts_the_same_however_a_text_falls_into_pieces(text: str, cuts: list[int]) -> None:
    request = TextRequest(request_id="1", model="m", prompt="", sampling=SamplingParams(max_tokens=1))
    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    starts = [0, *ends[:-1]]
    given_out = ""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        given_out += guardrail.lmi_filter_text(request, text[start:end], number == len(ends))
    assert given_out == guardrail.ADDRESS.sub("[address]", text)


# -------------------------------------------------------------------------------------------------- limits_route


def test_limits_route_says_what_a_model_takes(server: ServerProcess) -> None:
    with server.client() as client:
        answer = client.get("/models/model/limits")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "max_context_tokens": 512,
            "max_batch_size": 256,
            "max_waiting_requests": 1000,
            "max_request_bytes": 67_108_864,
            "max_request_s": None,
        },
    )


def test_limits_route_of_an_unknown_model_names_the_known_ones(server: ServerProcess) -> None:
    with server.client() as client:
        answer = client.get("/models/modle/limits")
    assert (answer.status_code, answer.json()["error"]) == (404, "model.not-found")
    assert "'modle'. Models here: model" in answer.json()["message"]


def test_limits_route_says_that_a_model_is_loading(site: Path, faulty_path: Path) -> None:
    environ = {"PYTHONPATH": os.pathsep.join([str(site), str(faulty_path)]), "LMI_EXTENSIONS": "limits_route"}
    with serve("-o", "rolling_batch=faulty", "-o", "load=slow", environ=environ, is_ready=False) as server:
        eventually(lambda: server.health()["models"], seconds=60)
        with server.client() as client:
            answer = client.get("/models/model/limits")
    assert (answer.status_code, answer.json()["error"]) == (503, "limits.loading")


# --------------------------------------------------------------------------------------------- completion_schema


def test_completion_schema_is_read_and_answered(server: ServerProcess) -> None:
    answer = server.post({"prompt": "abc", "max_tokens": 5}, headers=COMPLETION).json()
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    assert answer == {"completion": "abcab", "stop_reason": "max_tokens", "usage": usage}


def test_completion_schema_says_when_a_stop_sequence_ended_the_text(server: ServerProcess) -> None:
    answer = server.post({"prompt": "ab|", "max_tokens": 50, "stop": ["|"]}, headers=COMPLETION).json()
    assert (answer["completion"], answer["stop_reason"]) == ("ab", "stop")


def test_completion_schema_leaves_requests_without_its_header_to_lmi(server: ServerProcess) -> None:
    assert server.post({"inputs": "abc", "parameters": {"max_new_tokens": 4}}).json() == {"generated_text": "abca"}
    assert streamed(server, "a b ", max_new_tokens=4) == ["", "a ", "", "b "]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"prompt": "abc", "max_tokens": 0}, "request.invalid", "max_new_tokens=0"),
        ({"prompt": "abc", "max_tokns": 5}, "request.invalid", "parameters.max_tokns is not a parameter"),
        ({"inputs": "abc"}, "completion.no-prompt", "no text under 'prompt'"),
        ({"prompt": 7}, "completion.no-prompt", "no text under 'prompt'"),
        (["abc"], "completion.no-prompt", "no text under 'prompt'"),
        ({"prompt": "abc", "stream": True}, "completion.no-stream", "stream=true is not offered"),
    ],
)
def test_completion_schema_refuses_what_it_cannot_answer(
    server: ServerProcess, body: object, code: str, words: str
) -> None:
    response = server.post(body, headers=COMPLETION)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert words in response.json()["message"]


# ------------------------------------------------------------------------------------------ what the tutorial shows


def shown() -> list[tuple[list[str], str]]:
    """The curl lines of the tutorial, as words, each with the listing that follows it."""
    listings = re.findall(r"^```\w*\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    following = itertools.pairwise(listings)
    return [
        (shlex.split(asked.replace("\\\n", " ")), answer) for asked, answer in following if asked.startswith("curl")
    ]


@pytest.fixture(scope="module")
def tutorial(
    serve_with: Serve, entry_points: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """All of them at once."""
    audit = tmp_path_factory.mktemp("tutorial") / "tokens.jsonl"
    with serve_with(",".join(entry_points), audit=audit) as process:
        yield process


def test_the_answers_in_the_tutorial_are_those_of_a_server(tutorial: ServerProcess) -> None:
    assert len(shown()) >= 5
    for words, answer in shown():
        options = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i] in ("-d", "-H")}
        [url] = [word for word in words if word.startswith("http://localhost:8080/")]
        headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
        with tutorial.client() as client:
            path = url.removeprefix("http://localhost:8080")
            content = options.get("-d", "").encode()
            response = client.request("POST" if content else "GET", path, content=content, headers=headers)
        assert response.text.strip() == answer.strip()
