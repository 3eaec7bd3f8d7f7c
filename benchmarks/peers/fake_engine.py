# SPDX-License-Identifier: Apache-2.0
"""The engine behind every peer: no model, one token a turn of the event loop, as LMI's echo backend has it."""

import asyncio
from collections.abc import AsyncIterator

WORDS = [f" word{number}" for number in range(128)]


async def generate(n_tokens: int) -> AsyncIterator[tuple[int, str]]:
    """Yield ids and texts."""
    for number in range(n_tokens):
        await asyncio.sleep(0)
        yield number, WORDS[number % len(WORDS)]
