# SPDX-License-Identifier: Apache-2.0
"""LMI's schema: whatever a model writes and a request wants, a stream has the text of the whole answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core.scripted import Script, events_of, lines_of
from tests.core.written_texts import SETTINGS, TOKENIZERS, face, of_lmi, scripts, tokenizer, wishes

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
