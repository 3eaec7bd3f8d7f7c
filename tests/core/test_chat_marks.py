# SPDX-License-Identifier: Apache-2.0
"""Formats whose marks are special tokens: those are read, and all other special tokens stay hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from lmi.serving.tokenizer import FileTokenizer
from tests.core.scripted import Face, Script, events_of
from tests.core.tokenizer_folders import byte_level, wordpiece, write

MARKS = ("<|python_tag|>", "[TOOL_CALLS]", "[THINK]", "[/THINK]")
OTHERS = ("<|reserved_special_token_4|>", "<|eom_id|>")
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
CALL = '{"name": "f", "arguments": {"a": 1}}'
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
OTHER, END = OTHERS
FORMATS = {
    "llama3_json": (f"{OTHER}Well.{OTHER}<|python_tag|>{CALL}{END}", "Well."),
    "mistral": (f"{OTHER}[THINK]Hm{OTHER}m.[/THINK]Well.{OTHER}[TOOL_CALLS][{CALL}]{END}", "Well."),
}
"""Format of calls -> what a model writes, and the content of it."""

Faces = dict[str, Face]


@cache
def tokenizer(folder: Path) -> FileTokenizer:
    made = byte_level()
    made.add_special_tokens([AddedToken(each, normalized=False) for each in (*MARKS, *OTHERS)])
    return FileTokenizer(write(folder / "model", made) / "tokenizer.json", {})


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faces]:
    """A model for each format."""
    loaded = tokenizer(tmp_path_factory.mktemp("tokenizer"))
    made = {
        calls: Face(loaded, chat_template=TEMPLATE, tool_call_parser=calls, reasoning_parser="mistral")
        for calls in FORMATS
    }
    yield made
    for each in made.values():
        each.close()


def script_of(face: Face, text: str) -> Script:
    ids = tuple(face.tokenizer.encode(text, adds_special=False))
    return Script(ids, frozenset(range(1, len(ids), 3)))


def asked(script: Script, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Once"}], "max_tokens": len(script.ids), **more}


def streamed(face: Face, script: Script, **more: Any) -> tuple[str, str, list[str]]:
    """Content, reasoning and arguments of calls."""
    pieces = events_of(face.ask(script, "/v1/chat/completions", asked(script, stream=True, **more)))
    deltas = [piece["choices"][0]["delta"] for piece in pieces]
    calls = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    texts = ["".join(delta.get(name, "") for delta in deltas) for name in ("content", "reasoning_content")]
    return texts[0], texts[1], ["".join(calls)]


def whole(face: Face, script: Script, **more: Any) -> tuple[str, str, list[str]]:
    [choice] = face.ask(script, "/v1/chat/completions", asked(script, **more)).json()["choices"]
    message = choice["message"]
    calls = [call["function"]["arguments"] for call in message.get("tool_calls", ())]
    return message["content"] or "", message.get("reasoning_content", ""), ["".join(calls)]


@pytest.mark.parametrize("calls", FORMATS)
def test_marks_are_read_and_other_special_tokens_are_not_shown(faces: Faces, calls: str) -> None:
    text, content = FORMATS[calls]
    script = script_of(faces[calls], text)
    expected = (content, "Hmm." if calls == "mistral" else "", [json.dumps({"a": 1})])
    assert whole(faces[calls], script, tools=TOOLS) == expected
    assert streamed(faces[calls], script, tools=TOOLS) == expected


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_response_shows_no_special_tokens_beside_its_marks(faces: Faces, is_stream: bool) -> None:
    face, (text, content) = faces["mistral"], FORMATS["mistral"]
    script = script_of(face, text)
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    body = {"input": "Once", "max_output_tokens": len(script.ids), "tools": flat, "stream": is_stream}
    answer = face.ask(script, "/v1/responses", body)
    found = answer.json() if not is_stream else json.loads(answer.text.split("data: ")[-1])["response"]
    reasoning, message, call = found["output"]
    assert reasoning["content"][0]["text"] == "Hmm."
    assert message["content"][0]["text"] == content
    assert json.loads(call["arguments"]) == {"a": 1}


def test_marks_of_calls_are_hidden_where_there_are_no_tools(faces: Faces) -> None:
    face = faces["llama3_json"]
    script = script_of(face, f"Well.<|python_tag|>{CALL}{END}")
    assert whole(face, script) == (f"Well.{CALL}", "", [""]) == streamed(face, script)


def test_who_asks_for_special_tokens_gets_all_of_them(faces: Faces) -> None:
    face = faces["mistral"]
    script = script_of(face, f"Well.{OTHER}")
    assert whole(face, script, skip_special_tokens=False)[0] == f"Well.{OTHER}"


def test_log_probabilities_name_the_tokens_that_are_shown_and_no_others(faces: Faces) -> None:
    face = faces["mistral"]
    script = script_of(face, f"[THINK]Hm.[/THINK]Well.{OTHER}")
    [choice] = face.ask(script, "/v1/chat/completions", asked(script, logprobs=True)).json()["choices"]
    names = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert (names[0], names[-1], "[/THINK]" in names) == ("[THINK]", "", True)


def test_some_special_tokens_may_be_shown_where_tokens_change_with_their_neighbours(tmp_path: Path) -> None:
    made = wordpiece()
    made.add_special_tokens([AddedToken(each, normalized=False) for each in MARKS[:2]])
    loaded = FileTokenizer(write(tmp_path / "model", made) / "tokenizer.json", {})
    shown, hidden = (loaded.encode(each, adds_special=False)[0] for each in MARKS[:2])
    the = loaded.encode("the", adds_special=False)
    decoder = loaded.decoder(shows_special=frozenset([shown]))
    assert "".join(decoder.push([*the, hidden, shown, *the])) + decoder.flush() == f"the {MARKS[0]} the"
    assert loaded.token_bytes(hidden, shows_special=frozenset([shown])) == b""
    assert MARKS[0].encode() in loaded.token_bytes(shown, shows_special=frozenset([shown]))
