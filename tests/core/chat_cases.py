# SPDX-License-Identifier: Apache-2.0
"""Conversations as OpenAI's API has them, and the templates of families of models that they are rendered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.core.tokenizer_folders import byte_level, write

TEMPLATES = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
"""Written in the manner of the families they are named for."""

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says what the \"weather\" is, in <b>one</b> place & 'now'.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Zürich", "東京"]}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
HIDDEN_TOOL = {"type": "function", "function": {"name": "_hidden", "parameters": {}}}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: dict[str, Any], call_id: str = "abcdefghi") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


SYSTEM = said("system", "  You are terse.\nAnd kind. ")
HELLO = said("user", "Hello, who are you? ")
ANSWER = said("assistant", " I am a model. ")
WHY = said("user", "Why?")
ASKED = said("user", "What is the weather in 東京 and Zürich?")
CALLED = said("assistant", None, tool_calls=[call("get_weather", {"city": "東京", "days": 2})])
CALLED_TWICE = said(
    "assistant",
    "",
    tool_calls=[call("get_weather", {"city": "東京"}), call("get_weather", {"city": "Zürich"}, "ihgfedcba")],
)
RESULT = said("tool", '{"sky": "clear <3"}', tool_call_id="abcdefghi")
SECOND_RESULT = said("tool", "rain", tool_call_id="ihgfedcba")

CASES: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [HELLO]},
    "system": {"messages": [SYSTEM, HELLO]},
    "several turns": {"messages": [HELLO, ANSWER, WHY]},
    "several turns after a system text": {"messages": [SYSTEM, HELLO, ANSWER, WHY, ANSWER, HELLO]},
    "no turn for the model": {"messages": [SYSTEM, HELLO, ANSWER], "add_generation_prompt": False},
    "turns of one side": {"messages": [HELLO, WHY]},
    "only a system text": {"messages": [SYSTEM]},
    "unicode": {"messages": [said("user", "naïve 🙂 👩‍👩‍👧 e\u0301 العربية \u2028 <|im_end|> {{ x }} {% y %} &lt;")]},
    "empty": {"messages": [said("user", "")]},
    "line breaks": {"messages": [said("user", "\n\n a\r\nb\tc \n")]},
    "tools": {"messages": [SYSTEM, ASKED], "tools": [TOOL, HIDDEN_TOOL]},
    "tools without a system text": {"messages": [ASKED], "tools": [TOOL]},
    "a call": {"messages": [ASKED, CALLED], "tools": [TOOL], "add_generation_prompt": False},
    "a call and its result": {"messages": [SYSTEM, ASKED, CALLED, RESULT], "tools": [TOOL]},
    "a call, its result and what follows": {
        "messages": [ASKED, CALLED, RESULT, said("assistant", "Clear."), WHY], "tools": [TOOL],
    },
    "two calls": {"messages": [ASKED, CALLED_TWICE, RESULT, SECOND_RESULT], "tools": [TOOL]},
    "a call without tools": {"messages": [ASKED, CALLED, RESULT]},
    "thoughts": {"messages": [HELLO, said("assistant", "<think>\nhm\n</think>\n\nBecause."), WHY]},
    "thoughts in a field": {
        "messages": [HELLO, said("assistant", "So.", reasoning_content="hm\n")], "add_generation_prompt": False,
    },
    "thinking is off": {"messages": [HELLO], "enable_thinking": False},
    "thinking is on": {"messages": [HELLO], "enable_thinking": True},
    "documents": {
        "messages": [HELLO], "documents": [{"title": "on apples", "text": "red\nround"}, {"title": "b", "text": ""}],
    },
    "go on": {"messages": [HELLO, said("assistant", "Well, I")], "continue_final_message": True},
    "go on after blanks": {"messages": [HELLO, said("assistant", " Well, I \n")], "continue_final_message": True},
    "go on with a question": {"messages": [SYSTEM, said("user", "Why is the")], "continue_final_message": True},
    "go on from nothing": {"messages": [HELLO, said("assistant", "")], "continue_final_message": True},
    "go on behind thoughts": {
        "messages": [HELLO, said("assistant", "<think>a</think>Be")], "continue_final_message": True,
    },
    "another bos": {"messages": [HELLO], "bos_token": "<mine>", "date_string": "2001"},
    "parts": {"messages": [said("user", [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}])]},
}  # fmt: skip

GOLDEN_PROGRAM = """
import copy, json, sys
from transformers import AutoTokenizer

def rendered(tokenizer, case):
    case = copy.deepcopy(case)
    for message in case["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    case.setdefault("add_generation_prompt", not case.get("continue_final_message"))
    try:
        return ["text", tokenizer.apply_chat_template(case.pop("messages"), tokenize=False, **case)]
    except Exception as error:
        return [type(error).__name__, str(error)]

folders, cases = json.load(sys.stdin)
answers = {}
for name, folder in folders.items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers[name] = {key: rendered(tokenizer, case) for key, case in cases[name].items()}
print(json.dumps(answers))
"""
"""Renders the cases with transformers; what it raises stands for a text."""


def write_chat_model(folder: Path, template: str | None = None, **settings: Any) -> Path:
    """A folder with a small tokenizer, its special tokens in all forms there are, and a chat template."""
    write(
        folder,
        byte_level(),
        eos_token={"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False, "rstrip": False,
                   "single_word": False},
        pad_token="<pad>", image_token="<image>", extra_special_tokens={"audio_token": "<audio>"}, **settings,
    )  # fmt: skip
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder
