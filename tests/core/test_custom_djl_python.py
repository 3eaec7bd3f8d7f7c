# SPDX-License-Identifier: Apache-2.0
"""The compatibility package: what a handler written for the predecessor imports, and what it may rely on."""

import asyncio
import datetime
import json

import numpy as np
import pytest

from djl_python import Input, Output, inputs, outputs
from djl_python.encode_decode import decode, encode
from djl_python.inputs import NotJsonError
from djl_python.np_util import from_nd_list, to_nd_list
from djl_python.output_formatter import RequestOutput, output_formatter
from djl_python.request_io import TextGenerationOutput, TextInput, Token
from lmi.api import LmiError
from lmi.custom.parts import body_of, checked_output, headers_of, pieces, whole


def request(body: bytes = b"", content_type: str = "", **others: bytes) -> Input:
    made = Input()
    if content_type:
        made.properties["Content-Type"] = content_type
    if body:
        made.content.add("data", body)
    for key, value in others.items():
        made.content.add(key, value)
    return made


def test_both_names_can_be_imported_from_the_package_and_from_their_modules() -> None:
    assert (inputs.Input, outputs.Output) == (Input, Output)


# ------------------------------------------------------------------------------------------------------------- Input


def test_an_input_without_content_is_empty_and_gives_no_bytes() -> None:
    empty = request()
    assert empty.is_empty()
    assert (empty.get_as_bytes(), empty.get_data(), empty.get_as_string()) == (None, None, "")


def test_the_body_is_read_as_bytes_text_and_json() -> None:
    made = request('{"a": "ü"}'.encode(), "application/json")
    assert made.get_as_bytes() == '{"a": "ü"}'.encode()
    assert made.get_as_string() == '{"a": "ü"}'
    assert made.get_as_json() == made.get_data() == {"a": "ü"}


@pytest.mark.parametrize("body", [b"{", b"", b"\xff"], ids=["cut", "empty", "not utf-8"])
def test_what_is_no_json_raises_what_json_raises_and_more_special(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        request(body, "application/json").get_as_json()
    assert isinstance(caught.value, NotJsonError)


def test_a_property_is_found_whatever_the_case_of_its_name() -> None:
    made = request(b"x", "text/plain")
    assert made.get_property("content-type") == made.get_property("CONTENT-TYPE") == "text/plain"
    assert made.get_property("other") is None
    assert made.get_properties() is made.properties


def test_content_is_found_by_its_key_and_a_missing_key_names_those_there_are() -> None:
    made = request(b"body", image=b"png")
    assert made.get_as_bytes("image") == b"png"
    assert made.contains_key("image")
    assert not made.contains_key("audio")
    with pytest.raises(KeyError, match="no content 'audio', only: data, image"):
        made.get_as_bytes("audio")


def test_without_a_key_named_data_the_first_content_is_the_body() -> None:
    assert request(prompt=b"one", other=b"two").get_as_string() == "one"


def test_a_batch_is_always_the_one_request() -> None:
    made = request(b"x")
    assert (made.is_batch(), made.get_batch_size(), made.get_batches()) == (False, 1, [made])


@pytest.mark.parametrize(
    ("body", "kind", "data"),
    [
        (b"text", "text/plain", "text"),
        (b"\x00\x01", "application/octet-stream", b"\x00\x01"),
        (b"x", "", b"x"),
        (b"[1]", "application/json; charset=utf-8", [1]),
    ],
)
def test_data_is_decoded_by_its_content_type(body: bytes, kind: str, data: object) -> None:
    assert request(body, kind).get_data() == data


def test_a_table_is_read_by_its_header() -> None:
    assert request(b"a,b\n1,2\n").get_as_csv() == [{"a": "1", "b": "2"}]


# ------------------------------------------------------------------------------------------------------------ Output


def test_a_whole_answer_has_code_headers_and_the_type_of_what_was_added() -> None:
    part = whole(Output().add({"n": np.int64(3), "at": datetime.datetime(2024, 1, 2)}).add_property("X-Model", 7))
    assert (part.status, part.headers) == (200, {"x-model": "7", "content-type": "application/json"})
    assert json.loads(part.body) == {"n": 3, "at": "2024-01-02 00:00:00"}


@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        ("ü", "ü".encode(), "text/plain; charset=utf-8"),
        (b"\x00", b"\x00", "application/octet-stream"),
        (bytearray(b"a"), b"a", "application/octet-stream"),
        ([1, "ü"], '[1,"ü"]'.encode(), "application/json"),
        (np.array([[1.5]]), b"[[1.5]]", "application/json"),
    ],
)
def test_what_is_added_decides_the_content_type(value: object, body: bytes, kind: str) -> None:
    part = whole(Output().add(value))
    assert (part.body, part.headers["content-type"]) == (body, kind)


def test_a_content_type_that_is_set_holds_and_data_is_the_body_among_several_contents() -> None:
    output = Output().add("other", key="log").add(b"png", key="data").add_property("Content-Type", "image/png")
    assert (body_of(output), headers_of(output)) == (b"png", {"content-type": "image/png"})


def test_an_error_replaces_the_content_and_its_code_is_424_unless_said() -> None:
    output = Output().add("half").error("no memory")
    assert output.code == 424
    assert json.loads(body_of(output)) == {"code": 424, "message": "prediction failure", "error": "no memory"}
    assert Output().error("bad", code=400).code == 400


def test_not_a_number_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output().add_as_json({"x": float("nan")})


def test_a_second_request_of_a_batch_is_refused() -> None:
    assert Output().add("x", batch_index=0).content.size() == 1
    with pytest.raises(ValueError, match="batch_index=1"):
        Output().add("x", batch_index=1)


def test_nothing_returned_is_no_content_and_anything_else_is_an_error() -> None:
    assert checked_output(None, "handle").code == 204
    with pytest.raises(LmiError, match=r"script\.wrong-output: handle returned dict, not an Output"):
        checked_output({}, "handle")
    with pytest.raises(LmiError, match="code 42"):
        checked_output(Output(42), "handle")


@pytest.mark.parametrize(("name", "value"), [("x", "a\r\nb: c"), ("a b", "c"), ("", "c"), ("x:y", "c")])
def test_a_property_that_would_break_the_answer_is_an_error(name: str, value: str) -> None:
    with pytest.raises(LmiError, match="cannot be a header"):
        headers_of(Output().add_property(name, value))


def test_headers_that_the_server_writes_are_left_to_it() -> None:
    assert headers_of(Output().add_property("Content-Length", "99").add_property("Transfer-Encoding", "x")) == {}


# ----------------------------------------------------------------------------------------------------------- streams


def streamed(output: Output) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [piece async for piece in pieces(output)]

    return asyncio.run(collect())


def test_a_stream_is_json_lines_unless_a_formatter_says_otherwise() -> None:
    assert streamed(Output().add_stream_content([["a"], ["b"]])) == [b'{"outputs":["a"]}\n', b'{"outputs":["b"]}\n']
    assert streamed(Output().add_stream_content(iter("ab"), output_formatter=str.upper)) == [b"A", b"B"]
    assert streamed(Output().add_stream_content(["a", b"b", {"c": 1}], None)) == [b"a", b"b", b'{"c":1}\n']


def test_a_stream_may_be_asynchronous() -> None:
    async def numbers():
        yield 1
        yield 2

    assert streamed(Output().add_stream_content(numbers(), output_formatter=str)) == [b"1", b"2"]


def test_the_default_formatter_can_be_named_and_writes_exceptions_too() -> None:
    write = Output._default_stream_output_formatter
    assert streamed(Output().add_stream_content([["a"]], output_formatter=write)) == [b'{"outputs":["a"]}\n']
    assert write(ValueError("no ink")) == b'{"error_msg":"no ink"}\n'


def test_content_that_cannot_be_streamed_is_an_error() -> None:
    with pytest.raises(LmiError, match="add_stream_content got int, nothing to iterate over"):
        streamed(Output().add_stream_content(7))


# ------------------------------------------------------------------------------------------------- tensors and types


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16", "bool"])
def test_arrays_survive_the_tensor_format(dtype: str) -> None:
    arrays = [np.arange(6).reshape(2, 3).astype(dtype), np.array(7, dtype=dtype)]
    read = from_nd_list(to_nd_list(arrays))
    assert [each.dtype for each in read] == [np.dtype(dtype)] * 2
    for one, other in zip(arrays, read, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tensor_list_written_by_the_predecessor_is_read() -> None:
    data = bytes.fromhex("00000001 0004 4e444152 00000003 00 0007") + b"default" + bytes.fromhex("0007") + b"FLOAT32"
    data += bytes.fromhex("00000001 0000000000000002 00000001 003f 3c 00000008 0000803f 00000040")
    [array] = from_nd_list(data)
    assert (array.tolist(), str(array.dtype)) == ([1.0, 2.0], "float32")
    assert to_nd_list(array) == data


def test_a_cut_tensor_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="in the middle of an array"):
        from_nd_list(to_nd_list(np.ones(4))[:-3])


def test_npz_travels_both_ways() -> None:
    part = whole(Output().add_as_npz([np.ones(2), np.zeros(1)]))
    read = request(part.body, part.headers["content-type"]).get_data()
    assert [each.tolist() for each in read] == [[1.0, 1.0], [0.0]]


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        (b"", None, {"inputs": ""}),
        (b'{"inputs": "a"}', None, {"inputs": "a"}),
        (b"[1]", "application/json", [1]),
        (b"hello", "text/plain", {"inputs": ["hello"]}),
        (b"inputs,id\na,1\nb,2\n", "text/csv", {"inputs": ["a", "b"]}),
        (b"question\nwhy\n", "text/csv", {"inputs": [{"question": "why"}]}),
        (b"a=b", "application/x-www-form-urlencoded", {"inputs": "a=b"}),
        (b"\x00", "application/octet-stream", {"inputs": b"\x00"}),
    ],
)
def test_decode_reads_each_content_type(body: bytes, kind: str | None, value: object) -> None:
    assert decode(request(body, kind or ""), kind) == value


def test_a_table_without_a_known_column_is_an_error() -> None:
    with pytest.raises(ValueError, match="question, context, inputs"):
        decode(request(b"a,b\n1,2\n"), "text/csv")


@pytest.mark.parametrize(
    ("kind", "body", "written"),
    [
        (None, b'[{"a":1}]', "application/json"),
        ("text/csv", b"a\r\n1\r\n", "text/csv"),
        ("tensor/ndlist", to_nd_list([np.ones(1)]), "tensor/ndlist"),
    ],
)
def test_encode_writes_what_is_accepted(kind: str | None, body: bytes, written: str) -> None:
    prediction = [np.ones(1)] if written == "tensor/ndlist" else [{"a": 1}]
    part = whole(encode(Output(), prediction, kind))
    assert (part.body, part.headers) == (body, {"content-type": written})


# -------------------------------------------------------------------------------------------------------- formatters


def test_a_formatter_reads_its_tokens_one_by_one() -> None:
    output = TextGenerationOutput(1, TextInput(1, input_text="p", input_ids=[1, 2]))
    output.set_next_token(Token(5, "a", -0.5))
    output.set_next_token(Token(6, "b", -0.25), is_last_token=True, finish_reason="length")
    sequence = output.sequences[output.best_sequence_index]
    read = [sequence.get_next_token() for _ in range(3)]
    assert [(token and token.text, first, last) for token, first, last in read] == [
        ("a", True, False),
        ("b", False, True),
        (None, False, False),
    ]
    assert (sequence.finish_reason, sequence.cumulative_log_prob, sequence.has_next_token()) == ("length", -0.75, False)
    assert output.get_tokens_as_dict()[0] == {"id": 5, "text": "a", "log_prob": -0.5}
    assert output.input.prompt_tokens_length() == 2


def test_the_mark_leaves_the_function_as_it_is() -> None:
    @output_formatter
    def write(request_output: RequestOutput) -> str:
        return "x"

    assert write(None) == "x"
    assert write.is_output_formatter
