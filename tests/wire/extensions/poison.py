# SPDX-License-Identifier: Apache-2.0
"""Ends every answer as soon as it says "poison"; holds each word back until it is whole."""

from lmi.api import RefusedError, TextRequest, hookimpl


@hookimpl
def lmi_filter_text(request: TextRequest, text: str, is_last: bool) -> str:
    text = request.scratch.get("held", "") + text
    if "poison" in text:
        raise RefusedError("poison.found", "the answer speaks of poison", "Ask for something else")
    word = "" if is_last else text.rpartition(" ")[2]
    request.scratch["held"] = word
    return text.removesuffix(word)
