# SPDX-License-Identifier: Apache-2.0
"""Custom output formatters: which signature one has, and what it is fed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Dict  # noqa: UP035 - handlers of the predecessor write it so

import pytest

from lmi.api import LmiError, RefusedError, SamplingParams, TextRequest, TextToken
from lmi.custom.formatter import Formatter, GrowingAnswer

REQUEST = TextRequest(request_id="r", model="m", prompt="p", sampling=SamplingParams(max_tokens=9), adapter="french")
A, B = TextToken(1, "a", -0.5), TextToken(2, "b", -0.25)


def growing(function: Any, **parameters: Any) -> GrowingAnswer:
    return Formatter(function, "model.py").growing(REQUEST, [7, 8], parameters)


def takes_mapping(answer: Mapping[str, Any]) -> Any: ...


def takes_plain_dict(answer: dict) -> Any: ...


def takes_typed_dict(answer: Dict[str, Any]) -> Any: ...  # noqa: UP006


def takes_name(response_data): ...


def takes_output(request_output): ...


def takes_annotated_output(answer: TextRequest) -> Any: ...


def takes_six(token, first, last, details, text, request_id): ...


@pytest.mark.parametrize("function", [takes_mapping, takes_plain_dict, takes_typed_dict, takes_name])
def test_one_parameter_that_is_a_dictionary_is_the_answer(function: Any) -> None:
    assert Formatter(function, "model.py").takes_answer


@pytest.mark.parametrize("function", [takes_output, takes_annotated_output, takes_six])
def test_any_other_signature_is_fed_with_tokens(function: Any) -> None:
    assert not Formatter(function, "model.py").takes_answer


def test_annotations_may_be_texts_or_types() -> None:
    namespace: dict[str, Any] = {"Dict": Dict}  # noqa: UP006
    exec("def f(x: dict): ...\ndef g(x: dict[str, int]): ...\ndef h(x: Dict[str, int]): ...", namespace)
    assert all(Formatter(namespace[name], "model.py").takes_answer for name in "fgh")


def test_tokens_arrive_in_order_with_the_end_marked() -> None:
    seen = []

    def write(output: Any) -> str:
        sequence = output.sequences[0]
        token, first, last = sequence.get_next_token()
        seen.append((token.text, token.log_prob, first, last, sequence.finish_reason, output.finished))
        return token.text.upper()

    answer = growing(write)
    assert (answer.add([A], ""), answer.add([B, A], "length")) == (b"A", b"BA")
    assert seen == [
        ("a", -0.5, True, False, None, False),
        ("b", -0.25, False, False, None, False),
        ("a", -0.5, False, True, "length", True),
    ]


def test_the_request_can_be_read() -> None:
    def write(output: Any) -> Any:
        asked = output.input
        return [output.request_id, asked.input_text, asked.input_ids, asked.adapters, asked.parameters]

    assert growing(write, details=True).add([A], "") == b'["r","p",[7,8],"french",{"details":true}]'


def test_an_end_without_a_token_is_told_too() -> None:
    def write(output: Any) -> str:
        token, _, last = output.sequences[0].get_next_token()
        return f"{token.id} {token.text!r} {last}"

    assert growing(write).add([], "deadline") == b"-1 '' True"
    assert growing(write).add([], "") == b""


def test_the_oldest_signature_gets_the_whole_text_with_the_last_token() -> None:
    def write(token: Any, first: bool, last: bool, details: Any, text: str, request_id: str) -> str:
        assert (first, request_id) == (token is not None and details["generated_tokens"] == 1, "r")
        return f"{token.text}|{text}|{details['finish_reason']};"

    answer = growing(write, details=True)
    assert answer.add([A, B], "") + answer.add([A], "eos_token") == b"a||None;b||None;a|aba|eos_token;"


@pytest.mark.parametrize(
    ("written", "body"), [(None, b""), (b"x", b"x"), ("\u00fc", b"\xc3\xbc"), ({"a": 1}, b'{"a":1}')]
)
def test_texts_bytes_and_json_may_be_written(written: Any, body: bytes) -> None:
    assert growing(lambda output: written).add([A], "") == body


def test_a_formatter_that_raises_is_named() -> None:
    def write(output: Any) -> str:
        raise KeyError("x")

    with pytest.raises(LmiError, match=r"write of model\.py raised KeyError: 'x'") as error:
        growing(write).add([A], "")
    assert error.value.code == "script.raised"


def test_a_formatter_may_refuse() -> None:
    def write(response_data: dict) -> dict:
        raise RefusedError("mine.refused", "no")

    with pytest.raises(RefusedError):
        Formatter(write, "model.py").answer({"generated_text": "x"})


def test_an_answer_is_given_as_plain_values() -> None:
    def unchanged(response: Any) -> Any:
        return response

    assert Formatter(unchanged, "model.py").answer({"tokens": [A]}) == {
        "tokens": [{"id": 1, "text": "a", "log_prob": -0.5}]
    }
