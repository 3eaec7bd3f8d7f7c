# SPDX-License-Identifier: Apache-2.0
"""Requests and answers in LMI's schema, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo


def lines_of(server: ServerProcess, prompt: str, **parameters: Any) -> list[dict[str, Any]]:
    return list(server.stream(prompt, **parameters))


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(line["token"]["text"] for line in lines)


def test_a_plain_answer_is_one_object_with_the_generated_text_alone(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc", "parameters": {"max_new_tokens": 5}})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.json() == {"generated_text": "abcab"}


def test_thirty_tokens_are_generated_where_nothing_is_said(echo: ServerProcess) -> None:
    assert echo.post({"inputs": "abc"}).json() == {"generated_text": "abc" * 10}


def test_details_name_reason_counts_prompt_and_every_token(echo: ServerProcess) -> None:
    answer = echo.generate("ab", max_new_tokens=3, details=True)
    assert answer == {
        "generated_text": "aba",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 3,
            "inputs": "ab",
            "tokens": [
                {"id": 97, "text": "a", "log_prob": 0.0},
                {"id": 98, "text": "b", "log_prob": 0.0},
                {"id": 97, "text": "a", "log_prob": 0.0},
            ],
        },
    }
    token = answer["details"]["tokens"][0]
    assert [type(token[name]) for name in ("id", "text", "log_prob")] == [int, str, float]


def test_a_stream_is_one_json_line_a_token_and_the_last_has_the_whole_text(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc", "parameters": {"max_new_tokens": 4}, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/jsonlines"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.content.endswith(b"}\n")
    *lines, last = map(json.loads, response.text.splitlines())
    assert lines == [{"token": {"id": ord(c), "text": c, "log_prob": 0.0}} for c in "abc"]
    assert last == {"token": {"id": 97, "text": "a", "log_prob": 0.0}, "generated_text": "abca"}


@pytest.mark.parametrize("stream", [True, False])
def test_stream_counts_beside_the_parameters_and_not_among_them(echo: ServerProcess, stream: bool) -> None:
    for inputs in ("abc", ["abc"]):
        body = {"inputs": inputs, "parameters": {"max_new_tokens": 3, "stream": not stream}, "stream": stream}
        response = echo.post(body)
        assert (response.status_code, "token" in response.text) == (200, stream)


def test_a_stream_gives_details_when_asked_on_its_last_line_without_the_tokens(echo: ServerProcess) -> None:
    *lines, last = lines_of(echo, "abc", max_new_tokens=4, details=True)
    assert all(line.keys() == {"token"} for line in lines)
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 4, "inputs": "abc"}


def test_the_full_text_begins_with_the_prompt_when_asked_for(echo: ServerProcess) -> None:
    assert echo.generate("abc", max_new_tokens=2, return_full_text=True) == {"generated_text": "abcab"}
    lines = lines_of(echo, "abc", max_new_tokens=2, return_full_text=True)
    assert (text_of(lines), lines[-1]["generated_text"]) == ("ab", "abcab")


def test_a_server_of_jsonlines_streams_to_those_who_did_not_ask() -> None:
    with serve_echo(output_formatter="jsonlines") as server:
        response = server.post({"inputs": "abc", "parameters": {"max_new_tokens": 3}})
    assert response.headers["content-type"] == "application/jsonlines"
    assert len(response.text.splitlines()) == 3


# ------------------------------------------------------------------------------------------------ what ends a text


@pytest.mark.parametrize(
    ("stop_sequences", "text", "n_tokens"),
    [(["ca"], "ab", 4), (["abcab"], "", 5), (["b"], "a", 2), (["xyz", "cab", "bcab"], "a", 5), (["c", "bc"], "a", 3)],
)
def test_a_stop_sequence_over_several_tokens_ends_the_text_and_never_shows(
    echo: ServerProcess, stop_sequences: list[str], text: str, n_tokens: int
) -> None:
    parameters = {"max_new_tokens": 50, "stop_sequences": stop_sequences, "details": True}
    answer = echo.generate("abc", **parameters)
    details = answer["details"]
    assert answer["generated_text"] == text
    assert "".join(token["text"] for token in details["tokens"]) == text
    assert (details["finish_reason"], details["generated_tokens"]) == ("stop_sequence", n_tokens)
    lines = lines_of(echo, "abc", **parameters)
    assert (text_of(lines), lines[-1]["generated_text"]) == (text, text)
    assert lines[-1]["details"]["generated_tokens"] == n_tokens == len(lines)


def test_what_only_looked_like_a_stop_sequence_is_shown_with_the_tokens_it_came_from(echo: ServerProcess) -> None:
    lines = lines_of(echo, "abcd", max_new_tokens=6, stop_sequences=["bcz", "abx"])
    assert [line["token"]["text"] for line in lines] == list("abcdab")


def test_a_text_that_ends_within_a_stop_sequence_keeps_its_beginning(echo: ServerProcess) -> None:
    lines = lines_of(echo, "abc", max_new_tokens=3, stop_sequences=["bca"])
    assert (text_of(lines), lines[-1]["generated_text"]) == ("abc", "abc")


def test_a_stop_token_counts_and_its_text_does_not_show(echo: ServerProcess) -> None:
    parameters = {"max_new_tokens": 50, "stop_token_ids": [ord("c")], "details": True}
    answer = echo.generate("abc", **parameters)
    details = answer["details"]
    assert answer["generated_text"] == "ab"
    assert (details["finish_reason"], details["generated_tokens"]) == ("stop_token", 3)
    assert details["tokens"][-1]["id"] == ord("c")
    lines = lines_of(echo, "abc", **parameters)
    assert ([line["token"]["text"] for line in lines], lines[-1]["generated_text"]) == (["a", "b", ""], "ab")


def test_other_names_of_parameters_mean_the_same(echo: ServerProcess) -> None:
    assert echo.generate("abc", max_new_tokens=50, stop=["ca"], ignore_eos=True)["generated_text"] == "ab"
    assert echo.generate("abc", max_new_tokens=2, ignore_eos_token=True)["generated_text"] == "ab"


def test_more_names_of_parameters_mean_the_same(echo: ServerProcess) -> None:
    assert echo.generate("ab", max_new_tokens=2, logprobs=1) == echo.generate("ab", max_new_tokens=2, top_n_tokens=1)


# ---------------------------------------------------------------------------------- what is shown, and several answers


@pytest.mark.parametrize("stop", [{"stop_sequences": ["ca"]}, {"stop_token_ids": [ord("c")]}])
def test_what_ends_a_text_is_shown_where_it_is_asked_for(echo: ServerProcess, stop: dict[str, Any]) -> None:
    parameters = {"max_new_tokens": 50, "include_stop_str_in_output": True, **stop}
    text = "abca" if "stop_sequences" in stop else "abc"
    assert echo.generate("abc", **parameters)["generated_text"] == text
    lines = lines_of(echo, "abc", **parameters)
    assert (text_of(lines), lines[-1]["generated_text"]) == (text, text)


def test_a_prompt_is_cut_to_its_last_tokens(echo: ServerProcess) -> None:
    assert echo.generate("abc", max_new_tokens=4, truncate=2) == {"generated_text": "bcbc"}
    assert echo.generate("abc", max_new_tokens=4, truncate=50) == {"generated_text": "abca"}
    long = "x" * 600 + "abc"  # more than the model takes
    assert echo.generate(long, max_new_tokens=3, truncate=3) == {"generated_text": "abc"}


def test_beams_are_an_answer_like_any_other(echo: ServerProcess) -> None:
    # The echo of a prompt that grows begins with the same letter again and again.
    parameters = {"max_new_tokens": 3, "num_beams": 4, "details": True, "top_n_tokens": 1}
    details = echo.generate("abc", **parameters)["details"]
    token = {"id": 97, "text": "a", "log_prob": 0.0}
    assert details["tokens"] == [token] * 3
    assert details["top_tokens"] == [[token]] * 3
    assert (details["finish_reason"], details["generated_tokens"], details["inputs"]) == ("length", 3, "abc")
    assert echo.generate("abc", max_new_tokens=3, num_beams=4) == {"generated_text": "aaa"}


@pytest.mark.parametrize("parameters", [{"num_beams": 2}, {"n": 2, "do_sample": True}, {"best_of": 2}])
def test_several_sequences_are_not_streamed(echo: ServerProcess, parameters: dict[str, Any]) -> None:
    response = echo.post({"inputs": "abc", "parameters": parameters, "stream": True})
    assert (response.status_code, response.json()["error"]) == (400, "request.unsupported")
    name, value = next(iter(parameters.items()))
    assert f"{name}={value} was asked of a stream" in response.json()["message"]


def test_several_answers_without_a_draw_are_refused(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc", "parameters": {"n": 2}})
    assert (response.status_code, response.json()["error"]) == (400, "request.same-answers")


def test_a_beam_search_counts_as_one_request() -> None:
    with serve_echo() as server:
        server.generate("abc", max_new_tokens=5, num_beams=2)
        with server.client() as client:
            metrics = client.get("/metrics").text
    assert 'lmi_requests_total{model="model",outcome="ok"} 1.0' in metrics
    assert 'lmi_prompt_tokens_total{model="model"} 3.0' in metrics
    assert 'lmi_output_tokens_total{model="model"} 5.0' in metrics


# ------------------------------------------------------------------------------------------------- text and tokens


def test_a_character_of_several_tokens_comes_whole_with_the_last_of_them(echo: ServerProcess) -> None:
    prompt = "é€😀"
    n_tokens = len(prompt.encode())
    lines = lines_of(echo, prompt, max_new_tokens=n_tokens)
    assert [line["token"]["text"] for line in lines] == ["", "é", "", "", "€", "", "", "", "😀"]
    assert lines[-1]["generated_text"] == prompt
    assert echo.generate(prompt, max_new_tokens=n_tokens) == {"generated_text": prompt}


def test_a_character_that_was_cut_off_is_one_replacement_character(echo: ServerProcess) -> None:
    assert echo.generate("a€", max_new_tokens=3)["generated_text"] == "a\ufffd"
    lines = lines_of(echo, "a€", max_new_tokens=3)
    assert (len(lines), text_of(lines)) == (3, "a\ufffd")


def test_likely_tokens_are_listed_for_each_token_best_first(echo: ServerProcess) -> None:
    details = echo.generate("ab", max_new_tokens=3, top_n_tokens=2)["details"]
    best = [entries[0] for entries in details["top_tokens"]]
    assert best == details["tokens"]
    assert len(details["top_tokens"]) == 3


def test_what_the_backend_does_not_declare_is_refused_under_the_name_that_was_sent(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "ab", "parameters": {"decoder_input_details": True}})
    assert (response.status_code, response.json()["error"]) == (400, "request.unsupported")
    assert "decoder_input_details" in response.json()["message"]


# ------------------------------------------------------------------------------------------------- names and ids


def test_a_model_answers_under_its_name_as_under_invocations(echo: ServerProcess) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 5, "details": True}}
    assert echo.post(body, "/predictions/model").json() == echo.post(body).json()
    streamed = echo.post({**body, "stream": True}, "/predictions/model")
    assert len(streamed.text.splitlines()) == 5


def test_a_server_takes_the_name_it_is_given() -> None:
    with serve_echo("--name", "parrot") as server:
        assert server.post({"inputs": "abc"}, "/predictions/parrot").status_code == 200
        assert server.post({"inputs": "abc"}, "/predictions/model").status_code == 404


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc"}, "/predictions/modle")
    assert (response.status_code, response.json()["error"]) == (404, "model.not-found")
    assert "'modle'" in response.json()["message"]
    assert "Models here: model" in response.json()["message"]


@pytest.mark.parametrize("path", ["/invocations", "/predictions/model"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_wrong_method_is_not_allowed(echo: ServerProcess, method: str, path: str) -> None:
    with echo.client() as client:
        response = client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, 405)
    assert f"{method} {path}" in response.json()["message"]


def test_an_unknown_path_is_not_found(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc"}, "/invocation")
    assert (response.status_code, response.json()["error"]) == (404, "request.no-route")
    assert "POST /invocation" in response.json()["message"]


@pytest.mark.parametrize("body", [{"inputs": "abc"}, {"inputs": "abc", "stream": True}, {"inputs": ""}, {}])
def test_the_callers_request_id_comes_back(echo: ServerProcess, body: dict[str, Any]) -> None:
    assert echo.post(body, headers={"X-Request-Id": "mine-7"}).headers["x-request-id"] == "mine-7"


def test_each_answer_has_an_id_of_its_own_where_the_caller_gives_none(echo: ServerProcess) -> None:
    ids = {echo.post(body).headers["x-request-id"] for body in ({"inputs": "abc"}, {"inputs": "abc"}, {})}
    assert len(ids) == 3
    assert all(ids)


def test_requests_under_one_id_do_not_disturb_each_other() -> None:
    with serve_echo(step_delay_ms=5) as server, server.client(headers={"x-request-id": "twice"}) as client:
        body = {"inputs": "first ", "parameters": {"max_new_tokens": 120}, "stream": True}
        with client.stream("POST", "/invocations", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            second = server.post({"inputs": "second "}, headers={"x-request-id": "twice"})
            assert second.json() == {"generated_text": ("second " * 30)[:30]}
            assert json.loads(list(lines)[-1])["generated_text"] == "first " * 20
