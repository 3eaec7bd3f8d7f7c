# SPDX-License-Identifier: Apache-2.0
"""A guardrail on requests: refuses bombs, leaves "please" out, and breaks when told to."""

import dataclasses

from lmi.api import RefusedError, TextRequest, hookimpl


@hookimpl
def lmi_filter_request(request: TextRequest) -> TextRequest | None:
    if "bomb" in request.prompt:
        raise RefusedError("guard.refused", "the prompt speaks of a bomb", "Ask for something else")
    if "break" in request.prompt:
        raise KeyError("the guard is broken")
    if request.headers.get("x-few") == "yes":
        request.stop_sequences = (" ",)
    if "please " in request.prompt:
        return dataclasses.replace(request, prompt=request.prompt.replace("please ", ""))
    return None
