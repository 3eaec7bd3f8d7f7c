# SPDX-License-Identifier: Apache-2.0
"""What the library's exceptions say."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|cannot allocate memory|insufficient memory|not enough memory", re.IGNORECASE
)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reasons_of(error: BaseException) -> str:
    """What an exception and its causes say, the nearest to the cause first: the outer one often only says "error"."""
    said = list(dict.fromkeys(first_line(each) for each in _chain(error)))
    return " <- ".join(reversed(said))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as far as types and texts tell."""
    return any(isinstance(each, MemoryError) or _NO_MEMORY.search(str(each)) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and not any(each is other for other in seen):
        seen.append(each)
        each = each.__cause__
    return iter(seen)
