# SPDX-License-Identifier: Apache-2.0
"""When a request began, had its first token and its last, and how a caller who asks is told.

All times count from the moment its body was there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from lmi.serving.attributes import HEADER, attribute
from lmi.workers.flight import Flight

ATTRIBUTE = "timings"
"""What a caller asks for them with, among the custom attributes of SageMaker: ``timings=true``."""

LONGEST = 1024
"""Characters of the header that the platform passes on."""

_LONGEST_NAME = 256


class Named(Protocol):
    """What was asked."""

    @property
    def model(self) -> str: ...
    @property
    def adapter(self) -> str: ...


class Measured(Protocol):
    """A request that was admitted, answered by one sequence or several; times are those of ``time.monotonic``."""

    n_writes: int

    @property
    def request(self) -> Named: ...
    @property
    def begun_s(self) -> float:
        """When it got a place in a worker's batch; 0 if it never did."""
        ...

    @property
    def first_token_s(self) -> float:
        """0 before there is one."""
        ...

    @property
    def last_token_s(self) -> float:
        """0 before it is there, and where nobody noted it."""
        ...

    @property
    def n_prompt_tokens(self) -> int: ...
    @property
    def n_output_tokens(self) -> int: ...
    @property
    def n_longest(self) -> int:
        """Tokens of its longest sequence."""
        ...


@dataclass(frozen=True)
class Subject:
    """What was asked.

    Args:
        model, adapter: their names.
    """

    model: str
    adapter: str = ""


class Called:
    """A request whose answer has no tokens: vectors, labels, or what a function of the model's own makes.

    Args:
        model: its name.
        flight: its way to a worker and back.
        n_prompt_tokens: tokens that it has.
    """

    n_writes = 0
    first_token_s = last_token_s = 0.0
    n_output_tokens = n_longest = 0

    def __init__(self, model: str, flight: Flight, n_prompt_tokens: int = 0) -> None:
        self.request = Subject(model)
        self.n_prompt_tokens = n_prompt_tokens
        self._flight = flight

    @property
    def begun_s(self) -> float:
        return self._flight.begun_s


def are_asked(headers: Mapping[str, str]) -> bool:
    """Whether a caller wants to be told.

    Args:
        headers: of the request, names in lower case.
    """
    return HEADER in headers and attribute(headers, ATTRIBUTE).lower() == "true"


def told(measured: Sequence[Measured], arrived_s: float, request_id: str, *, is_whole: bool) -> str:
    """The times of a request, as ``key=value;…``: those that are known when its answer begins.

    Args:
        measured: what answers it, one or more.
        arrived_s: when it came.
        request_id: as its caller knows it.
        is_whole: whether the whole answer is there; else it is a stream.
    """
    now_s = time.monotonic()
    begun_s = min((each.begun_s for each in measured if each.begun_s), default=0.0)
    first_s = min((each.first_token_s for each in measured if each.first_token_s), default=0.0)
    pairs: dict[str, object] = {"queue_ms": _ms((begun_s or first_s or now_s) - arrived_s)}
    if first_s:
        pairs["ttft_ms"] = _ms(first_s - arrived_s)
    if is_whole:
        pairs["total_ms"] = _ms(now_s - arrived_s)
    pairs["prompt_tokens"] = sum(each.n_prompt_tokens for each in measured)
    if is_whole:
        pairs["output_tokens"] = sum(each.n_output_tokens for each in measured)
    pairs["model"] = _name(measured[0].request.model)
    pairs["request_id"] = _name(request_id)
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def _ms(seconds: float) -> str:
    return f"{max(0.0, seconds) * 1000:.1f}"


def _name(text: str) -> str:
    """A name that ends no pair and goes through a header, written as in a URL where it has to be."""
    return quote(text, safe="/:@#,+ ")[:_LONGEST_NAME]
