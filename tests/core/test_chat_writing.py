# SPDX-License-Identifier: Apache-2.0
"""What a request says to the template of its model."""

from __future__ import annotations

from typing import Any

import pytest

from lmi.api import ModelArtifacts
from lmi.serving.bodies import validated
from lmi.serving.chat_template import load_chat_template
from lmi.serving.chat_writing import Conversation, Speech
from lmi.serving.openai_bodies import ChatBody
from lmi.serving.openai_responses_bodies import ResponsesBody
from lmi.serving.tokenizer import ByteTokenizer

TEMPLATE = "{{ reasoning_effort | default('usual') }} {{ verbosity | default('usual') }}"


def prompt_of(chat: ChatBody) -> str:
    template = load_chat_template(ModelArtifacts(), TEMPLATE)
    return Conversation(Speech(template, "none", "none", ByteTokenizer(), lambda: False), chat).prompt


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ({}, "usual usual"),
        ({"verbosity": "low"}, "usual low"),
        ({"reasoning_effort": "high", "verbosity": "high"}, "high high"),
        ({"verbosity": "low", "chat_template_kwargs": {"verbosity": "none at all"}}, "usual none at all"),
    ],
)
def test_a_template_hears_how_much_is_wanted(given: dict[str, Any], prompt: str) -> None:
    assert prompt_of(validated(ChatBody, {"messages": [{"role": "user", "content": "x"}], **given})) == prompt


def test_so_it_does_where_responses_say_it() -> None:
    body = validated(ResponsesBody, {"input": "x", "text": {"verbosity": "low"}, "reasoning": {"effort": "high"}})
    assert prompt_of(body.chat()) == "high low"
    assert body.repeated()["text"]["verbosity"] == "low"
