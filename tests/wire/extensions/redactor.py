# SPDX-License-Identifier: Apache-2.0
"""Cuts the word "secret" out of every text, wherever the pieces of a stream divide it; refuses at "poison"."""

from lmi.api import RefusedError, TextRequest, hookimpl

WORD = "secret"


@hookimpl
def lmi_filter_text(request: TextRequest, text: str, is_last: bool) -> str:
    text = request.scratch.get("held", "") + text
    if "poison" in text:
        raise RefusedError("redactor.poison", "the answer speaks of poison", "Ask for something else")
    text = text.replace(WORD, "[cut]")
    begun = (n for n in range(len(WORD) - 1, 0, -1) if text.endswith(WORD[:n]))
    n_held = 0 if is_last else next(begun, 0)
    request.scratch["held"] = text[len(text) - n_held :]
    return text[: len(text) - n_held]
