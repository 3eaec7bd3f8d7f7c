# SPDX-License-Identifier: Apache-2.0
"""Another schema: {"q": text, "n": tokens} in, {"a": text, ...} out; LMI's own is left alone."""

from collections.abc import Mapping
from typing import Any

from lmi.api import TextRequest, TextResult, hookimpl


@hookimpl
def lmi_parse_request(body: Any, headers: Mapping[str, str]) -> dict[str, Any] | None:
    if not isinstance(body, dict) or "q" not in body:
        return None
    return {"inputs": headers.get("x-prefix", "") + body["q"], "parameters": {"max_new_tokens": body.get("n", 4)}}


@hookimpl
def lmi_format_response(request: TextRequest, result: TextResult) -> dict[str, Any] | None:
    if request.headers.get("x-schema") != "qa":
        return None
    return {
        "a": result.text,
        "ids": [token.id for token in result.tokens],
        "why": result.finish_reason,
        "counts": [result.n_prompt_tokens, result.n_output_tokens],
    }
