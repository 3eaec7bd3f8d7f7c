# SPDX-License-Identifier: Apache-2.0
"""Every failure LMI reports: a stable code, what happened with the value, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec


class Severity(str, Enum):
    ERROR = "error"
    WARNING = "warning"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a configuration or a model, in words a person can act on.

    Args:
        code: stable slug, ``area.what`` (``weights.shard-missing``); documented in docs/errors.md.
        message: what is wrong, with the value.
        hint: what to do about it.
        path: the file or folder it was found in, if any.
        source: where the offending value came from (``serving.properties:4``, ``OPTION_DTYPE``), if any.
        severity: errors stop a start, warnings are printed.
        fields: names of the BackendConfig fields it is about; the core puts where each was set into ``source``.
    """

    code: str
    message: str
    hint: str = ""
    path: str = ""
    source: str = ""
    severity: Severity = Severity.ERROR
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        origin = f" ({self.source})" if self.source else ""
        return sentences(f"[{self.code}] {self.message}{origin}", self.hint)


def counted(n: int, noun: str) -> str:
    """``1 problem``, ``3 problems``."""
    return f"1 {noun}" if n == 1 else f"{n} {noun}s"


def enumerated(items: Sequence[str]) -> str:
    """Items in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def sentences(*parts: str) -> str:
    """Join parts into one line, each closed by a full stop unless it ends with punctuation of its own."""
    closed = [part if part[-1] in ".!?:" else f"{part}." for part in parts if part]
    return " ".join(closed)


class LmiError(Exception):
    """A failure with a stable code.

    Args:
        code: stable slug; the anchor of its paragraph in docs/errors.md.
        message: what happened, with the value and both numbers of a limit.
        hint: what to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(code, message, hint)

    def __str__(self) -> str:
        return sentences(f"{self.code}: {self.message}", self.hint)

    def without_hint(self) -> str:
        """The text for a place that says what to do by itself."""
        return sentences(f"{self.code}: {self.message}")


class ProblemsError(LmiError):
    """Several problems reported at once."""

    def __init__(self, code: str, message: str, problems: Sequence[Problem], hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *map(str, self.problems)])

    def without_hint(self) -> str:
        return "\n  ".join([super().without_hint(), *map(str, self.problems)])


class ConfigError(ProblemsError):
    """The configuration cannot be used; ``problems`` lists everything wrong with it."""


class ArtifactError(ProblemsError):
    """The model's files cannot be served; ``problems`` lists everything wrong with them."""


class PluginError(LmiError):
    """A plugin is missing, broken, blocked or ambiguous."""


class EngineLoadError(LmiError):
    """The engine could not load the model."""


class RequestError(LmiError):
    """The request is wrong: the caller can fix it."""


class UnsupportedError(RequestError):
    """The request asks for something the chosen backend does not offer."""


class NotFoundError(RequestError):
    """The named model, adapter or resource does not exist."""


class ExistsError(RequestError):
    """The name is taken already."""


class TooLargeError(RequestError):
    """The request is larger than a limit."""


class RefusedError(RequestError):
    """An extension (a guardrail, say) refused the request or its answer."""


class OverloadedError(LmiError):
    """The queue is full; try again later."""


class NotReadyError(LmiError):
    """The model is loading, draining or stopped."""


class DeadlineError(LmiError):
    """The request's time ran out before its first token."""


class EngineDeadError(LmiError):
    """The engine died and cannot answer any more."""


class OutOfMemoryError(LmiError):
    """The device or the host ran out of memory."""
