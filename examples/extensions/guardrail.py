# SPDX-License-Identifier: Apache-2.0
"""A guardrail: refuses prompts that hold a private key, and takes mail addresses out of what is generated.

Both hooks run in the server, on text.
"""

from __future__ import annotations

import re

from lmi.api import RefusedError, TextRequest, hookimpl

PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
ADDRESS = re.compile(r"[A-Za-z0-9.+_-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
# An address has 254 characters at most (RFC 5321), so nothing longer is ever held back.
UNFINISHED = re.compile(r"[A-Za-z0-9.+_@-]{0,254}\Z")
HELD = "guardrail.held"


@hookimpl
def lmi_filter_request(request: TextRequest) -> None:
    found = PRIVATE_KEY.search(request.prompt)
    if found:
        raise RefusedError(
            "guardrail.private-key",
            f"the prompt holds a private key at character {found.start()}",
            "Take it out, and replace the key: it has been sent over the network",
        )


@hookimpl
def lmi_filter_text(request: TextRequest, text: str, is_last: bool) -> str:
    """Give the text up to where an address may have begun; the rest comes with a later piece."""
    text = request.scratch.get(HELD, "") + text
    unfinished = UNFINISHED.search(text)
    end = len(text) if is_last or unfinished is None else unfinished.start()
    request.scratch[HELD] = text[end:]
    return ADDRESS.sub("[address]", text[:end])
