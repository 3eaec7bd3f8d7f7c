# SPDX-License-Identifier: Apache-2.0
"""OpenAI's schema: whatever a model writes and a request wants, a stream has what the whole answer has."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core.scripted import Script, events_of
from tests.core.tool_answers import NAMES
from tests.core.written_texts import SETTINGS, TOKENIZERS, face, scripts, tokenizer, wishes

USAGE = {"stream": True, "stream_options": {"include_usage": True}}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def grown(pieces: list[Any]) -> tuple[list[dict[str, Any]], Any]:
    """What a client makes of a stream: the choices, and the counts."""
    choices: dict[int, dict[str, Any]] = {}
    *others, last = pieces
    assert last["choices"] == []
    for piece in others:
        [given] = piece["choices"]
        choice = choices.setdefault(given["index"], {"text": "", "finish_reason": None, "logprobs": None})
        assert choice["finish_reason"] is None, "nothing follows the end"
        choice["text"] += given.get("text", "")
        choice["finish_reason"] = given["finish_reason"]
        for name, values in (given["logprobs"] or {}).items():
            choice["logprobs"] = choice["logprobs"] or {}
            if values is not None:
                choice["logprobs"].setdefault(name, []).extend(values)
        for name, value in given.get("delta", {}).items():
            add(choice.setdefault("message", {}), name, value)
    return [choices[index] for index in sorted(choices)], last["usage"]


def add(message: dict[str, Any], name: str, value: Any) -> None:
    """Add a delta to a message, as OpenAI's own client does."""
    if name != "tool_calls":
        message[name] = message.get(name, "") + value
        return
    calls = message.setdefault(name, [])
    for call in value:
        if call["index"] == len(calls):
            calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
        calls[call["index"]]["arguments"] += call["function"]["arguments"]


def joined(tokens: list[str]) -> bytes:
    """The bytes of the tokens of a completion."""
    parts = []
    for token in tokens:
        is_text = not token.startswith("bytes:")
        parts.append(token.encode() if is_text else bytes.fromhex(token.removeprefix("bytes:").replace("\\x", "")))
    return b"".join(parts)


def is_begun_by(text: str, data: bytes, reason: str) -> bool:
    """Whether the bytes of the tokens are a text; they go on where something ended it that is not shown."""
    found = data.decode(errors="replace")
    return found == text if reason == "length" else found.startswith(text.rstrip("\ufffd"))


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_completion_streamed_is_the_completion_as_a_whole(kind: str, data: st.DataObject) -> None:
    script = data.draw(scripts(kind))
    asked = {"prompt": ["Once ", "<s>Un bel dì"], "temperature": 1, "logprobs": 2, **data.draw(wishes(script))}
    asked |= {"n": data.draw(st.integers(1, 2)), "echo": data.draw(st.booleans())}
    whole = face(kind).ask(script, "/v1/completions", asked).json()
    choices, usage = grown(events_of(face(kind).ask(script, "/v1/completions", {**asked, **USAGE})))
    assert usage == whole["usage"]
    for place, (streamed, choice) in enumerate(zip(choices, whole["choices"], strict=True)):
        assert {**choice, "index": place} == {"index": place, **streamed}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_the_tokens_of_a_completion_are_its_text_and_all_that_are_counted(kind: str, data: st.DataObject) -> None:
    script = data.draw(scripts(kind))
    asked = {"prompt": "Once upon", "logprobs": 2, "temperature": 0, **data.draw(wishes(script))}
    answer = face(kind).ask(script, "/v1/completions", asked).json()
    [choice] = answer["choices"]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert len(tokens) == answer["usage"]["completion_tokens"] == len(choice["logprobs"]["top_logprobs"])
    assert is_begun_by(choice["text"], joined(tokens), choice["finish_reason"])
    assert all(token in top for token, top in zip(tokens, choice["logprobs"]["top_logprobs"], strict=True))
    assert offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] <= len(choice["text"])


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        *product(["bytes", "byte-level"], ["Un bel dì", "the 👩\u200d👧 then", "a</s>the then"]),
        *product(["sentencepiece-bpe"], ["Un bel dì", "the 👩\u200d👧 then"]),
    ],
)
def test_the_places_of_a_prompts_tokens_are_those_in_its_text(kind: str, prompt: str) -> None:
    asked = {"prompt": prompt, "logprobs": 0, "temperature": 0, "echo": True, "max_tokens": 3}
    [choice] = face(kind).ask(Script((5, 6, 7)), "/v1/completions", asked).json()["choices"]
    text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith(prompt)
    if kind == "sentencepiece-bpe":  # the first token is in no text, and the one behind it has lost its blank
        assert (logprobs["tokens"][0], logprobs["text_offset"][:2]) == ("<s>", [0, 0])
        logprobs = {name: values[2:] for name, values in logprobs.items()}
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or text.startswith(token, offset)
    assert joined(logprobs["tokens"][-3:]).decode(errors="replace") == text[len(prompt) :]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_chat_streamed_is_the_chat_as_a_whole(kind: str, data: st.DataObject) -> None:
    model = face(kind, chat_template=TEMPLATE)
    script = data.draw(scripts(kind))
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Once upon"}], "temperature": 1}
    asked |= {"logprobs": True, "top_logprobs": 2, "n": data.draw(st.integers(1, 2)), **data.draw(wishes(script))}
    whole = model.ask(script, "/v1/chat/completions", asked).json()
    choices, usage = grown(events_of(model.ask(script, "/v1/chat/completions", {**asked, **USAGE})))
    assert usage == whole["usage"]
    assert usage["completion_tokens"] == sum(len(choice["logprobs"]["content"]) for choice in choices)
    for streamed, choice in zip(choices, whole["choices"], strict=True):
        text = choice["message"]["content"]
        assert (streamed["message"]["content"], streamed["finish_reason"]) == (text, choice["finish_reason"])
        entries = choice["logprobs"]["content"]
        assert streamed["logprobs"]["content"] == entries
        data_of_all = bytes(byte for entry in entries for byte in entry["bytes"])
        assert is_begun_by(text, data_of_all, choice["finish_reason"])
        assert all(entry["token"] == entry["top_logprobs"][0]["token"] for entry in entries)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_response_streamed_is_the_response_as_a_whole(kind: str, data: st.DataObject) -> None:
    model = face(kind, chat_template=TEMPLATE)
    script = data.draw(scripts(kind))
    wished = data.draw(wishes(script))
    asked = {"input": "Once upon", "max_output_tokens": wished.pop("max_tokens"), "top_logprobs": 2, **wished}
    asked["include"] = ["message.output_text.logprobs"]
    whole = model.ask(script, "/v1/responses", asked).json()
    answer = model.ask(script, "/v1/responses", {**asked, "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data")]
    parts = [part for item in whole["output"] for part in item["content"]]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == "".join(part["text"] for part in parts)
    entries = [entry for part in parts for entry in part["logprobs"]]
    assert [entry for part in events[-1]["response"]["output"] for entry in part["content"][0]["logprobs"]] == entries
    assert events[-1]["response"]["usage"] == whole["usage"]
    assert events[-1]["response"]["status"] == whole["status"]


# ------------------------------------------------------------------------------------------------ calls and reasoning

CALL = '{"name": "f", "arguments": {"é": "}👩\u200d👧\u2028"}}'
WRITTEN = {
    "hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "llama3_json": f"<|python_tag|>{CALL}",
    "mistral": f"[TOOL_CALLS][{CALL}]",
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in NAMES]
PARTS = st.sampled_from(["<think>", "</think>", "\n", " ", "🇫🇷", "e\u0301", "Hm.", "<", "👍🏽 "])


@pytest.mark.parametrize("calls", WRITTEN)
@pytest.mark.parametrize("kind", ["bytes", "sentencepiece-bpe"])
@given(data=st.data())
@SETTINGS
def test_reasoning_and_calls_streamed_are_those_of_the_whole_message(
    kind: str, calls: str, data: st.DataObject
) -> None:
    model = face(kind, chat_template=TEMPLATE, tool_call_parser=calls, reasoning_parser="think")
    text = "".join(data.draw(st.lists(PARTS | st.just(WRITTEN[calls]), min_size=1, max_size=6)))
    ids = tuple(tokenizer(kind).encode(text, adds_special=False))
    script = Script(ids, data.draw(st.frozensets(st.integers(1, len(ids)), max_size=12)))
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Once"}], "tools": TOOLS}
    asked |= {"max_tokens": data.draw(st.integers(1, len(ids)) | st.just(len(ids)))}
    [choice] = model.ask(script, "/v1/chat/completions", asked).json()["choices"]
    [streamed], _ = grown(events_of(model.ask(script, "/v1/chat/completions", {**asked, **USAGE})))
    assert streamed["finish_reason"] == choice["finish_reason"]
    assert parts_of(streamed["message"]) == parts_of(choice["message"])


def parts_of(message: dict[str, Any]) -> list[Any]:
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    named = [(call["name"], call["arguments"]) for call in calls]
    return [message.get("content") or "", message.get("reasoning_content", ""), named]
