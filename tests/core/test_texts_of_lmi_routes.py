# SPDX-License-Identifier: Apache-2.0
"""LMI's schema: whatever a model writes and a request wants, a stream has the text of the whole answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from lmi.api import TextRequest
from tests.core.scripted import Script, events_of, lines_of
from tests.core.written_texts import SETTINGS, SNIPPETS, TOKENIZERS, face, of_lmi, scripts, tokenizer, wishes

EVENTS = "text/event-stream"


def body(asked: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    return {"inputs": "Once", "parameters": {"details": True, "top_n_tokens": 1, **of_lmi(asked)}, "stream": stream}


def without_tokens(details: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if name != "tokens"}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_lines_and_events_have_the_text_of_the_whole_answer(kind: str, data: st.DataObject) -> None:
    script = data.draw(scripts(kind))
    asked = data.draw(wishes(script))
    whole = face(kind).ask(script, "/invocations", body(asked)).json()
    text, details = whole["generated_text"], whole["details"]
    assert "".join(token["text"] for token in details["tokens"]) == text
    assert [token["id"] for token in details["tokens"]] == list(script.ids[: details["generated_tokens"]])
    assert len(details["top_tokens"]) == details["generated_tokens"]
    streamed = body(asked, stream=True)
    for lines in (
        lines_of(face(kind).ask(script, "/invocations", streamed)),
        events_of(face(kind).ask(script, "/invocations", streamed, accept=EVENTS)),
    ):
        tokens = [line["token"] for line in lines if "token" in line]
        assert "".join(token["text"] for token in tokens) == text
        assert (lines[-1]["generated_text"], lines[-1]["details"]) == (text, without_tokens(details))


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_text_in_a_list_is_the_text_it_is_alone(kind: str, data: st.DataObject) -> None:
    script = data.draw(scripts(kind))
    asked = data.draw(wishes(script))
    alone = face(kind).ask(script, "/invocations", body(asked)).json()
    listed = face(kind).ask(script, "/invocations", {**body(asked), "inputs": ["Once", "Once"]}).json()
    rotated = Script(script.ids[1:] + script.ids[:1], script.cuts)
    assert listed == [alone, face(kind).ask(rotated, "/invocations", body(asked)).json()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_stream_as_text_generation_inference_has_it_has_the_text_of_its_answer(
    kind: str, data: st.DataObject
) -> None:
    model = face(kind, tgi_compat=True)
    script = data.draw(scripts(kind))
    asked = data.draw(wishes(script))
    [whole] = model.ask(script, "/", body(asked)).json()
    text, details = whole["generated_text"], whole["details"]
    assert "".join(token["text"] for token in details["tokens"]) == text
    assert len(details["tokens"]) == details["generated_tokens"] == len(details["top_tokens"])
    events = events_of(model.ask(script, "/", body(asked, stream=True)))
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"] == text
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    last = events[-1]["details"]
    assert (last["generated_tokens"], last["finish_reason"]) == (details["generated_tokens"], details["finish_reason"])


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@SETTINGS
def test_a_text_goes_on_where_its_prompt_ends(kind: str, data: st.DataObject) -> None:
    text = tokenizer(kind)
    prompt, script = "Once upon", data.draw(scripts(kind))
    asked = {"max_tokens": len(script.ids), "ignore_eos": True}
    whole = face(kind).ask(script, "/invocations", {**body(asked), "inputs": prompt}).json()["generated_text"]
    assert text.decode(text.encode(prompt)) + whole == text.decode([*text.encode(prompt), *script.ids])


def late(*, request: TextRequest, text: str, is_last: bool) -> str:
    """A filter that gives each piece with the next one."""
    held = request.scratch.get("held", "")
    request.scratch["held"] = text
    return f"{held}{text}." if is_last else held


@given(data=st.data())
@SETTINGS
def test_what_a_filter_holds_back_comes_in_a_stream_too(data: st.DataObject) -> None:
    model = face("byte-level", text_filters=(late,), chat_template="{{ messages[0].content }}")
    script = data.draw(scripts("byte-level"))
    asked = data.draw(wishes(script))
    text = model.ask(script, "/invocations", body(asked)).json()["generated_text"]
    assert text.endswith(".")
    lines = lines_of(model.ask(script, "/invocations", body(asked, stream=True)))
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == text
    chat = {"messages": [{"role": "user", "content": "Once"}], "stream": True, **asked}
    pieces = events_of(model.ask(script, "/v1/chat/completions", chat))
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_tokens_of_a_prompt_are_its_text_with_special_ones(kind: str) -> None:
    prompt = "<s>Un bel dì, 👩\u200d👧" if kind in ("bytes", "byte-level") else "the then"
    asked = body({"max_tokens": 1}) | {"inputs": prompt}
    asked["parameters"]["prompt_logprobs"] = 1
    details = face(kind).ask(Script((5,)), "/invocations", asked).json()["details"]
    text = "".join(token["text"] for token in details["prefill"])
    assert text == (f"<s> {prompt}" if kind == "sentencepiece-bpe" else prompt)
    assert [top[0]["id"] for top in details["prefill_top_tokens"][1:]] == [
        each["id"] for each in details["prefill"][1:]
    ]


# -------------------------------------------------------------------------------------------------- texts and their ids


@pytest.mark.parametrize("kind", ["bytes", "byte-level", "tiktoken-like", "sentencepiece-bpe", "metaspace-first"])
@given(text=st.lists(st.sampled_from(SNIPPETS) | st.text(st.characters(exclude_categories=["Cs"]))).map("".join))
@SETTINGS
def test_the_ids_of_a_text_without_special_ones_are_the_text_again(kind: str, text: str) -> None:
    if "sentencepiece" in kind or "metaspace" in kind:  # for which this is a blank, and markers begin texts anew
        text = text.replace("▁", "").replace("<", "").lstrip()  # which finds its own blank before a text enough
    nothing = Script(())
    asked = {"prompt": text, "add_special_tokens": False, "return_token_strs": True}
    found = face(kind).ask(nothing, "/tokenize", asked).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert "".join(found["token_strs"]) == text
    assert face(kind).ask(nothing, "/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
