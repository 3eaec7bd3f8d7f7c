# SPDX-License-Identifier: Apache-2.0
"""The core's own answer to lmi_generate_batch: one generator of the engine for each request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from lmi.api.engine import Engine
from lmi.api.hookspecs import hookimpl
from lmi.api.requests import GenerationRequest, TokenChunk


@hookimpl(trylast=True)
def lmi_generate_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> list[AsyncGenerator[TokenChunk, None]]:
    return [engine.generate(request) for request in requests]
