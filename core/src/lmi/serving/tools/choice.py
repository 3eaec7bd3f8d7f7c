# SPDX-License-Identifier: Apache-2.0
"""Which format a model writes its calls in, and what the ids of calls look like."""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection, Sequence

from lmi.serving.tools.formats import HermesParser, JsonParser, Llama3JsonParser, MistralParser
from lmi.serving.tools.parser import ToolParser

PARSERS: dict[str, type[ToolParser]] = {
    "hermes": HermesParser,
    "llama3_json": Llama3JsonParser,
    "mistral": MistralParser,
    "json": JsonParser,
}
"""The name of a format, as ``option.tool_call_parser`` has it -> its parser."""

_OTHER_FORMATS = ("<function=", "<arg_key>")
"""In templates whose calls stand between the tags of ``hermes`` and are not JSON (Qwen3-Coder, GLM-4.5)."""

_BY_TEMPLATE = (
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters": dictionary of argument name', "llama3_json"),
)
"""What a chat template contains -> the format; the first that it contains counts."""

_BY_FAMILY = {
    "qwen": "hermes",
    "llama": "llama3_json",
    "mllama": "llama3_json",
    "ministral": "mistral",
    "mistral": "mistral",
    "mixtral": "mistral",
    "pixtral": "mistral",
}
"""How the name of a model's type or of its architecture begins -> the format."""

_CHARACTERS = string.ascii_letters + string.digits
_SHORT_IDS = ("length 9", "length != 9", "length == 9")


def parser_for(model_type: str | None, architectures: Sequence[str], chat_template: str | None) -> str:
    """The name of the format in which a model writes its calls: by its chat template, else by its family.

    Args:
        model_type, architectures: as config.json has them.
        chat_template: the template itself; None where there is none.
    Returns:
        A name in ``PARSERS``, or ``none`` where the template shows a format that has no parser here.
    """
    template = chat_template or ""
    if any(words in template for words in _OTHER_FORMATS):
        return "none"
    for words, name in _BY_TEMPLATE:
        if words in template:
            return name
    for family in (model_type or "", *architectures):
        for beginning, name in _BY_FAMILY.items():
            if family.lower().startswith(beginning):
                return name
    return "json"


def new_parser(name: str, tool_names: Collection[str], *, is_streamed: bool = True) -> ToolParser | None:
    """A parser for one answer; None for ``none``.

    Args:
        name: a name in ``PARSERS``, or ``none``.
        tool_names, is_streamed: as ``ToolParser`` has them.
    """
    return None if name == "none" else PARSERS[name](tool_names, is_streamed=is_streamed)


def new_call_id(chat_template: str | None) -> str:
    """An id for one call: ``call_`` and 24 letters and digits; 9 of those alone where the template takes no other."""
    is_short = any(words in (chat_template or "") for words in _SHORT_IDS)
    return _drawn(9) if is_short else f"call_{_drawn(24)}"


def _drawn(n_characters: int) -> str:
    return "".join(secrets.choice(_CHARACTERS) for _ in range(n_characters))
