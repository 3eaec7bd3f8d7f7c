# SPDX-License-Identifier: Apache-2.0
"""Messages of a chat as callers send them, in the form that a template takes; what no template can take is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lmi.api.errors import RequestError, UnsupportedError, enumerated
from lmi.serving.chat_wants import ContentForm, Wants

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "self")
"""Names that a request gives to a template in fields of their own."""

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Type of a part -> the field that holds its text."""

_MAX_SHOWN_CHARS = 60


def given_messages(messages: Any, wants: Wants) -> list[dict[str, Any]]:
    """The messages as a template takes them; the caller's own are not changed.

    Args:
        messages: as they were sent.
        wants: what the template wants of them.
    Raises:
        UnsupportedError: a content holds what is no text.
        RequestError: they are not messages.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise wrong("messages", messages, "a list of at least one message")
    return [_message(f"messages[{index}]", message, wants) for index, message in enumerate(messages)]


_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning at clients; templates read the first or the second. Source: transformers."""


def given_objects(name: str, value: Any) -> list[dict[str, Any]] | None:
    """A list of objects, such as tools; None where there are none.

    Raises:
        RequestError: it is something else.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list | tuple):
        raise wrong(name, value, "a list of objects")
    for index, each in enumerate(value):
        if not isinstance(each, dict):
            raise wrong(f"{name}[{index}]", each, "an object")
    return list(value)


def given_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a request gives to a template beyond what every template gets, ready for ``ChatTemplate.render(**it)``.

    Raises:
        RequestError: a name of it has a field of its own.
    """
    found = dict(kwargs or {})
    for name in RESERVED:
        if name in found:
            raise RequestError(
                "request.invalid", f"chat_template_kwargs has {name!r}, which has a field of its own",
                "Take it out of chat_template_kwargs",
            )  # fmt: skip
    return found


def _message(at: str, message: Any, wants: Wants) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise wrong(at, message, "an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise wrong(f"{at}.role", role, f"one of {', '.join(ROLES)}")
    # Clients write the fields that a message has not got as null; templates ask whether they are there.
    made = {name: value for name, value in message.items() if value is not None}
    calls = made.pop("tool_calls", None)
    if calls:
        made["tool_calls"] = _calls(f"{at}.tool_calls", calls)
    if role == "developer" and not wants.knows_developer:
        made["role"] = "system"
    content = message.get("content")
    if content is not None:
        made["content"] = _content(f"{at}.content", content, wants.content)
    elif role != "assistant":
        raise wrong(f"{at}.content", content, "a text or a list of parts")
    elif not calls and "function_call" not in made:  # a message that only calls tools has no content at all
        made["content"] = _content(at, "", wants.content)
    reasoning = next((made[name] for name in _REASONING if name in made), None)
    if reasoning is not None:
        made = {"thinking": reasoning, **made, "reasoning_content": reasoning}
    return made


# ---------------------------------------------------------------------------------------------------------- contents


def _content(at: str, content: Any, form: ContentForm) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form is ContentForm.PARTS else content
    if not isinstance(content, list | tuple):
        raise wrong(at, content, "a text or a list of parts")
    texts = [text_of_part(f"{at}[{index}]", part) for index, part in enumerate(content)]
    if form is ContentForm.TEXT:
        return "\n".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def text_of_part(at: str, part: Any) -> str:
    """The text of a part of a content.

    Args:
        at: where it stands in the body.
        part: as it was sent.
    Raises:
        UnsupportedError: it holds what is no text.
        RequestError: it is no part.
    """
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise wrong(at, part, "an object with type and text")
    if kind not in _TEXT_PARTS:
        raise UnsupportedError(
            "request.unsupported", f"{at} is a part of type {kind!r:.{_MAX_SHOWN_CHARS}}; chats hold text only here",
            "Send parts of type text",
        )  # fmt: skip
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise wrong(f"{at}.{_TEXT_PARTS[kind]}", text, "a text")
    return text


# -------------------------------------------------------------------------------------------------------- tool calls


def _calls(at: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise wrong(at, calls, "a list of calls")
    return [_call(f"{at}[{index}]", call) for index, call in enumerate(calls)]


def _call(at: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise wrong(at, call, "an object with id, type and function")
    if not isinstance(function.get("name"), str):
        raise wrong(f"{at}.function.name", function.get("name"), "a text")
    return {
        **call,
        "function": {**function, "arguments": given_arguments(f"{at}.function.arguments", function.get("arguments"))},
    }


def given_arguments(at: str, given: Any) -> dict[str, Any]:
    """Arguments of a call, which are JSON as a text in OpenAI's schema and an object for templates.

    Args:
        at: where they stand in the body.
        given: as they were sent.
    Raises:
        RequestError: they are no object.
    """
    value = given
    if given is None or (isinstance(given, str) and not given.strip()):
        return {}
    if isinstance(given, str):
        try:
            value = json.loads(given)
        except (ValueError, RecursionError):
            raise wrong(at, given, "the JSON text of an object") from None
    if not isinstance(value, dict):
        raise wrong(at, given, "the JSON text of an object")
    return value


def wrong(at: str, value: Any, wanted: str) -> RequestError:
    """The refusal of a value that stands at a place of a body, where something else is wanted."""
    shown = "missing" if value is None else _shown(value)
    return RequestError("request.invalid", f"{at} is {shown}; it must be {wanted}", _hint(at))


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and not value:
        return "empty"
    if isinstance(value, list | tuple | dict):
        return "a list" if not isinstance(value, dict) else f"an object with {enumerated(_names(value)) or 'nothing'}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def _names(value: dict[Any, Any]) -> list[str]:
    names = [str(each)[:_MAX_SHOWN_CHARS] for each in value]
    return names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]


def _hint(at: str) -> str:
    return f"Change {at} as OpenAI's API has it"
