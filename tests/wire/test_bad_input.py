# SPDX-License-Identifier: Apache-2.0
"""Bad requests: each a 4xx that names the field, the value and the limit; the next request works."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.servers import ServerProcess


@pytest.fixture(autouse=True)
def next_request_works(echo: ServerProcess) -> Iterator[None]:
    yield
    assert echo.generate("still here", max_new_tokens=10) == {"generated_text": "still here"}


def refused(response: httpx.Response, status: int, code: str) -> str:
    """The message of an error whose form is right."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert (body["code"], body["error"]) == (status, code)
    assert body["message"].startswith(f"{code}: ")
    return str(body["message"])


def with_parameters(text: str) -> bytes:
    return b'{"inputs": "abc", "parameters": {%s}}' % text.encode()


# ------------------------------------------------------------------------------------------------------- whole bodies


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b'{"inputs": ',
        b"{'inputs': 'abc'}",
        b'{"inputs": "abc"} and more',
        b'{"inputs": "\xff\xfe"}',
        b"\x80\x81\x82",
        b'{"inputs": "\\ud800"}',
        b"[" * 100_000,
        b'{"inputs":' * 100_000,
    ],
    ids=["blank", "cut", "quotes", "trailing", "utf-8", "binary", "surrogate", "deep-lists", "deep-objects"],
)
def test_a_body_that_is_not_json_is_refused(echo: ServerProcess, body: bytes) -> None:
    assert "the body is not JSON" in refused(echo.post(body), 400, "request.malformed-json")


def test_an_empty_body_is_an_empty_prompt(echo: ServerProcess) -> None:
    assert "the body is empty" in refused(echo.post(b""), 400, "request.empty-prompt")


@pytest.mark.parametrize("body", [b"[]", b'"abc"', b"7", b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(echo: ServerProcess, body: bytes) -> None:
    assert "the body must be a JSON object" in refused(echo.post(body), 400, "request.invalid")


def test_a_body_of_100_mb_is_too_large_with_both_numbers(echo: ServerProcess) -> None:
    message = refused(echo.post(b'{"inputs": "' + b"a" * 100_000_000 + b'"}'), 413, "request.too-large")
    assert "100000014 bytes" in message
    assert "max_request_size is 67108864" in message


def test_a_body_without_a_length_is_counted_as_it_comes(echo: ServerProcess) -> None:
    parts = (b"a" * 1_000_000 for _ in range(70))
    with echo.client() as client:
        message = refused(client.post("/invocations", content=parts), 413, "request.too-large")
    assert "70000000 bytes" in message


# ------------------------------------------------------------------------------------------------------ single fields


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"inputs": None}, "inputs", "None"),
        ({"inputs": 7}, "inputs", "7"),
        ({"inputs": ["abc", 7]}, "inputs.1", "7"),
        ({"inputs": {"text": "abc"}}, "inputs", "{'text': 'abc'}"),
        ({"inputs": "abc", "stream": "yes"}, "stream", "'yes'"),
        ({"inputs": "abc", "stream": 1}, "stream", "1"),
        ({"inputs": "abc", "parameters": None}, "parameters", "None"),
        ({"inputs": "abc", "parameters": [1]}, "parameters", "[1]"),
        ({"inputs": "abc", "parameters": "none"}, "parameters", "'none'"),
        ({"inputs": "abc", "adapters": 3}, "adapters", "3"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_value(
    echo: ServerProcess, body: dict[str, object], field: str, value: str
) -> None:
    message = refused(echo.post(body), 400, "request.invalid")
    assert f"{field}={value}: input should be a" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", '"5"'),
        ("max_new_tokens", "1.5"),
        ("max_new_tokens", "true"),
        ("max_new_tokens", "null"),
        ("min_new_tokens", '"1"'),
        ("do_sample", '"yes"'),
        ("seed", "1.5"),
        ("temperature", '"hot"'),
        ("temperature", "true"),
        ("top_k", "2.5"),
        ("top_p", "[]"),
        ("min_p", "{}"),
        ("typical_p", '"x"'),
        ("repetition_penalty", "null"),
        ("presence_penalty", '"x"'),
        ("frequency_penalty", "[1]"),
        ("logit_bias", "[1]"),
        ("stop_sequences", '"abc"'),
        ("stop_token_ids", "5"),
        ("ignore_eos_token", "0"),
        ("details", '"true"'),
        ("decoder_input_details", "1"),
        ("top_n_tokens", "0.5"),
        ("return_full_text", '"no"'),
        ("truncate", "1.5"),
        ("bad_words", '"abc"'),
        ("n", "1.5"),
        ("best_of", '"2"'),
        ("num_beams", "true"),
        ("length_penalty", '"1"'),
        ("guided_regex", "7"),
        ("guided_choice", '"a"'),
        ("guided_grammar", "[]"),
        ("include_stop_str_in_output", "1"),
        ("skip_special_tokens", '"no"'),
        ("prompt_logprobs", '"1"'),
    ],
)
def test_a_parameter_of_the_wrong_type_is_named_with_its_value(echo: ServerProcess, name: str, value: str) -> None:
    message = refused(echo.post(with_parameters(f'"{name}": {value}')), 400, "request.invalid")
    assert f"parameters.{name}={json.loads(value)!r}: input should be a" in message


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("max_new_tokens", "0", "greater than or equal to 1"),
        ("max_new_tokens", "-1", "greater than or equal to 1"),
        ("min_new_tokens", "-1", "greater than or equal to 0"),
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", "18446744073709551616", "less than 18446744073709551616"),
        ("temperature", "-0.1", "greater than or equal to 0"),
        ("top_k", "-2", "greater than or equal to -1"),
        ("top_p", "0", "greater than 0"),
        ("top_p", "2", "less than or equal to 1"),
        ("min_p", "1.1", "less than or equal to 1"),
        ("typical_p", "0", "greater than 0"),
        ("repetition_penalty", "0", "greater than 0"),
        ("presence_penalty", "-2.5", "greater than or equal to -2"),
        ("frequency_penalty", "2.5", "less than or equal to 2"),
        ("top_n_tokens", "101", "less than or equal to 100"),
        ("prompt_logprobs", "101", "less than or equal to 100"),
        ("truncate", "0", "greater than or equal to 1"),
        ("n", "0", "greater than or equal to 1"),
        ("n", "33", "less than or equal to 32"),
        ("best_of", "33", "less than or equal to 32"),
        ("num_beams", "33", "less than or equal to 32"),
        ("length_penalty", "11", "less than or equal to 10"),
    ],
)
def test_a_parameter_out_of_bounds_is_named_with_value_and_limit(
    echo: ServerProcess, name: str, value: str, limit: str
) -> None:
    message = refused(echo.post(with_parameters(f'"{name}": {value}')), 400, "request.invalid")
    assert f"parameters.{name}={value}: input should be {limit}" in message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
def test_a_number_that_is_not_finite_is_refused(echo: ServerProcess, name: str, value: str) -> None:
    message = refused(echo.post(with_parameters(f'"{name}": {value}')), 400, "request.invalid")
    assert f"parameters.{name}=" in message
    assert "finite number" in message


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ('"stop_token_ids": [18446744073709551616]', "request.invalid", "stop_token_ids"),
        ('"stop_token_ids": [-1]', "request.invalid", "stop_token_ids"),
        ('"logit_bias": {"18446744073709551616": 1}', "request.invalid", "logit_bias"),
        ('"logit_bias": {"-1": 1}', "request.invalid", "logit_bias"),
        ('"logit_bias": {"x": 1}', "request.invalid", "logit_bias"),
        ('"top_k": 18446744073709551616', "request.invalid", "top_k"),
        ('"max_new_tokens": 18446744073709551616', "request.", "max_new_tokens"),
        ('"min_new_tokens": 18446744073709551616', "request.", "min_new_tokens"),
    ],
)
def test_a_number_that_no_engine_could_take_is_refused(echo: ServerProcess, text: str, code: str, word: str) -> None:
    response = echo.post(with_parameters(text), timeout=10)
    assert response.status_code == 400, response.text
    assert response.json()["error"].startswith(code)
    assert word in response.json()["message"]


def test_all_that_is_wrong_is_said_at_once(echo: ServerProcess) -> None:
    body = with_parameters('"max_new_tokens": 0, "top_p": 2, "temprature": 1')
    message = refused(echo.post(body), 400, "request.invalid")
    for part in ("max_new_tokens=0", "top_p=2", "temprature is not a parameter", "Did you mean 'temperature'?"):
        assert part in message


def test_a_long_value_is_cut_short_in_the_message(echo: ServerProcess) -> None:
    message = refused(echo.post({"inputs": {"text": "a" * 10_000}}), 400, "request.invalid")
    assert len(message) < 300


def test_a_missing_prompt_is_named(echo: ServerProcess) -> None:
    assert "inputs is missing" in refused(echo.post({"parameters": {}}), 400, "request.invalid")


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": "abc", "parameters": {"max_tokens": 5}}, "Did you mean 'max_new_tokens'?"),
        ({"inputs": "abc", "parameters": {"temprature": 1.0}}, "Did you mean 'temperature'?"),
        ({"inputs": "abc", "parameters": {"stop_sequence": ["x"]}}, "Did you mean 'stop_sequences'?"),
        ({"inputs": "abc", "paramters": {}}, "Did you mean 'parameters'?"),
        ({"input": "abc"}, "Did you mean 'inputs'?"),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_is_given(
    echo: ServerProcess, body: dict[str, object], message: str
) -> None:
    assert message in refused(echo.post(body), 400, "request.invalid")


def test_a_name_that_is_like_no_other_is_answered_with_all_names(echo: ServerProcess) -> None:
    message = refused(echo.post(with_parameters('"zzz": 1')), 400, "request.invalid")
    assert "parameters.zzz is not a parameter" in message
    assert "Known: max_new_tokens, " in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.7"),
        ("top_p", "0.5"),
        ("top_k", "4"),
        ("min_p", "0.1"),
        ("typical_p", "0.9"),
        ("do_sample", "true"),
        ("min_new_tokens", "3"),
        ("repetition_penalty", "1.2"),
        ("presence_penalty", "0.5"),
        ("frequency_penalty", "0.5"),
        ("logit_bias", '{"97": 1.5}'),
        ("bad_words", '["x"]'),
        ("bad_words", '["xyz"]'),
        ("prompt_logprobs", "1"),
        ("grammar", '{"type": "regex", "value": "a+"}'),
        ("guided_json", "{}"),
        ("guided_regex", '"a+"'),
        ("guided_choice", '["a"]'),
        ("guided_grammar", '"root ::= a"'),
    ],
)
def test_a_parameter_the_backend_does_not_declare_is_refused_by_its_name(
    echo: ServerProcess, name: str, value: str
) -> None:
    message = refused(echo.post(with_parameters(f'"{name}": {value}')), 400, "request.unsupported")
    assert "backend 'echo' does not offer" in message
    assert name in message


def test_an_adapter_is_refused_where_the_backend_has_none(echo: ServerProcess) -> None:
    message = refused(echo.post({"inputs": "abc", "adapters": "french"}), 400, "request.unsupported")
    assert "'french'" in message


# ------------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_prompt_is_refused(echo: ServerProcess, stream: bool) -> None:
    assert "the prompt has no tokens" in refused(
        echo.post({"inputs": "", "stream": stream}), 400, "request.empty-prompt"
    )


@pytest.mark.parametrize(
    ("n_prompt", "n_new", "hint"),
    [
        (512, 1, "Shorten the prompt by 1 tokens or lower max_new_tokens."),
        (500, 13, "Shorten the prompt by 1 tokens or lower max_new_tokens to 12."),
        (100_000, 30, "Shorten the prompt by 99518 tokens or lower max_new_tokens."),
        (1, 10_000, "Lower max_new_tokens to 511."),
        (600, 10_000, "Shorten the prompt and lower max_new_tokens."),
    ],
)
def test_what_is_longer_than_the_context_is_refused_with_both_numbers(
    echo: ServerProcess, n_prompt: int, n_new: int, hint: str
) -> None:
    response = echo.post({"inputs": "a" * n_prompt, "parameters": {"max_new_tokens": n_new}})
    message = refused(response, 400, "request.too-long")
    said = (
        f"prompt {n_prompt} tokens + max_new_tokens {n_new} = {n_prompt + n_new}; this model's maximum context length"
    )
    assert f"{said} is 512 tokens. {hint}" in message


def test_what_just_fits_the_context_is_served(echo: ServerProcess) -> None:
    assert echo.generate("a" * 500, max_new_tokens=12) == {"generated_text": "a" * 12}


def test_empty_and_endless_stop_sequences_are_refused(echo: ServerProcess) -> None:
    assert "stop_sequences.1=''" in refused(
        echo.post({"inputs": "abc", "parameters": {"stop_sequences": ["x", ""]}}), 400, "request.invalid"
    )
    many = {"inputs": "abc", "parameters": {"stop_sequences": ["x"] * 10_000}}
    assert "stop_sequences" in refused(echo.post(many), 400, "request.invalid")
