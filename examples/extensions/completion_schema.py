# SPDX-License-Identifier: Apache-2.0
"""A schema of one's own: ``{"prompt", "max_tokens", "stop"}`` in, ``{"completion", "stop_reason", "usage"}`` out.

It answers requests that carry the header ``x-schema: completion``; all others keep LMI's schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmi.api import RequestError, TextRequest, TextResult, hookimpl

# Whatever else stands in the body goes into LMI's parameters, which know what is wrong with a name or a value.
RENAMED = {"max_tokens": "max_new_tokens", "stop": "stop_sequences"}
REASONS = {"eos_token": "stop", "stop_token": "stop", "stop_sequence": "stop", "length": "max_tokens"}


def is_ours(headers: Mapping[str, str]) -> bool:
    return headers.get("x-schema") == "completion"


@hookimpl
def lmi_parse_request(body: Any, headers: Mapping[str, str]) -> dict[str, Any] | None:
    if not is_ours(headers):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
        raise RequestError("completion.no-prompt", "the body has no text under 'prompt'", 'Send {"prompt": "..."}')
    fields = {name: value for name, value in body.items() if name != "prompt"}
    if fields.pop("stream", False):
        # lmi_format_response is for whole answers: a stream would come in LMI's schema.
        raise RequestError("completion.no-stream", "stream=true is not offered in this schema", "Leave it out")
    return {"inputs": body["prompt"], "parameters": {RENAMED.get(name, name): fields[name] for name in fields}}


@hookimpl
def lmi_format_response(request: TextRequest, result: TextResult) -> dict[str, Any] | None:
    if not is_ours(request.headers):
        return None
    return {
        "completion": result.text,
        "stop_reason": REASONS.get(result.finish_reason, result.finish_reason),
        "usage": {"prompt_tokens": result.n_prompt_tokens, "completion_tokens": result.n_output_tokens},
    }
