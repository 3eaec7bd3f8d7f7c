# SPDX-License-Identifier: Apache-2.0
"""Metrics as lines of the log, for platforms that show nothing else: CloudWatch makes metrics of them.

Source: the specification of CloudWatch's embedded metric format.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

_LOG = logging.getLogger(__name__)
_MOST_VALUES = 100
"""That a metric may have in one line."""
_LONGEST_DIMENSION = 1024
_STDOUT = 1
_MODEL, _ADAPTER = "Model", "Adapter"
"""Names of dimensions."""

UNITS = {
    "QueueTime": "Milliseconds",
    "TimeToFirstToken": "Milliseconds",
    "TimePerOutputToken": "Milliseconds",
    "RequestLatency": "Milliseconds",
    "PromptTokens": "Count",
    "OutputTokens": "Count",
    "Requests": "Count",
    "FailedRequests": "Count",
    "CancelledRequests": "Count",
    "RefusedRequests": "Count",
    "RequestsRunning": "Count",
    "RequestsWaiting": "Count",
    "BatchSize": "Count",
    "CacheUse": "None",
}
"""Every metric there is, with its unit."""

_OF_REQUESTS = (
    "QueueTime",
    "TimeToFirstToken",
    "TimePerOutputToken",
    "RequestLatency",
    "PromptTokens",
    "OutputTokens",
)
_OF_SAMPLES = ("RequestsRunning", "RequestsWaiting", "BatchSize", "CacheUse")
_OF_OUTCOMES = {"error": "FailedRequests", "cancelled": "CancelledRequests"}

Values = tuple[float | None, ...]


class Series:
    """What is to be told of one model, or of one of its adapters, since the last line.

    Args:
        dimensions: what it is told of, name -> value.
        on_full: called when no line can hold more.
    """

    __slots__ = ("_dimensions", "_n_refused", "_on_full", "_outcomes", "_refuses", "_requests", "_samples")

    def __init__(self, dimensions: dict[str, str], on_full: Callable[[Series], None]) -> None:
        self._dimensions = {name: as_dimension(value) for name, value in dimensions.items()}
        self._refuses = _ADAPTER not in dimensions  # which adapter was asked for is not known when a request is refused
        self._on_full = on_full
        self._requests: list[Values] = []
        self._outcomes: list[str] = []
        self._samples: list[Values] = []
        self._n_refused = 0

    def add(self, outcome: str, values: Values) -> None:
        """A request that ended.

        Args:
            outcome: ``ok``, ``cancelled`` or ``error``.
            values: queue, first token, per token, whole: seconds; tokens of the prompt and of the output.
        """
        self._requests.append(values)
        self._outcomes.append(outcome)
        if len(self._requests) >= _MOST_VALUES:
            self._on_full(self)

    def refuse(self) -> None:
        """A request was refused before it began."""
        self._n_refused += 1

    def sample(self, values: Values) -> None:
        """How things are: requests that run and wait, size of the batch, share of the cache in use."""
        self._samples.append(values)
        if len(self._samples) >= _MOST_VALUES:
            self._on_full(self)

    def take(self) -> dict[str, Any]:
        """The metrics since the last time, by name; empty where nothing happened."""
        requests, self._requests = self._requests, []
        outcomes, self._outcomes = self._outcomes, []
        samples, self._samples = self._samples, []
        n_refused, self._n_refused = self._n_refused, 0
        if not (requests or samples or n_refused):
            return {}
        found = dict([*_columns(_OF_REQUESTS, requests), *_columns(_OF_SAMPLES, samples)])
        counts = {"Requests": len(requests)}
        counts |= {name: outcomes.count(outcome) for outcome, name in _OF_OUTCOMES.items()}
        if self._refuses:
            counts["RefusedRequests"] = n_refused
        return {**found, **counts}

    def line(self, metrics: dict[str, Any], namespace: str, at_s: float) -> bytes:
        """One document of the format, as a line.

        Args:
            metrics: as ``take`` gives them.
            namespace: that they are in.
            at_s: seconds since 1970.
        """
        directive = {
            "Namespace": namespace,
            "Dimensions": [list(self._dimensions)],
            "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in metrics],
        }
        head = {"_aws": {"Timestamp": int(at_s * 1000), "CloudWatchMetrics": [directive]}}
        return msgspec.json.encode({**head, **self._dimensions, **metrics}) + b"\n"


class EmfLog:
    """Writes a line for each model and each of its adapters with which something happened, once an interval.

    Intervals begin with the clock's own, so that every minute has one line and no minute has two; a line is written
    earlier where it would hold too many values.

    Args:
        namespace: that the metrics are in.
        interval_s: how often.
        write: takes a line, whole.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        namespace: str,
        *,
        interval_s: float = 60.0,
        write: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._namespace, self._interval_s, self._clock = namespace, interval_s, clock
        self._write = write or StdoutLines().write
        self._series: dict[tuple[str, str], Series] = {}
        self._interval = clock() // interval_s

    def series(self, model: str, adapter: str = "") -> Series:
        """That of a model; of one of its adapters, where that is named."""
        if (model, adapter) not in self._series:
            dimensions = {_MODEL: model, _ADAPTER: adapter} if adapter else {_MODEL: model}
            self._series[model, adapter] = Series(dimensions, self._tell)
        return self._series[model, adapter]

    def keep(self, is_there: Callable[[str, str], bool]) -> None:
        """Write what there is of models and adapters that are gone, and nothing more.

        Args:
            is_there: whether a model is, or one of its adapters.
        """
        for key in [key for key in self._series if not is_there(*key)]:
            self._tell(self._series.pop(key))

    def look(self) -> None:
        """Write what there is, if an interval has ended; called every second or so."""
        now_s = self._clock()
        interval = now_s // self._interval_s
        if interval != self._interval:
            end_s = (self._interval + 1) * self._interval_s - 0.001
            self._interval = interval
            self._tell_all(min(now_s, end_s))

    def close(self) -> None:
        """Write what there is."""
        self._tell_all(self._clock())

    def _tell_all(self, at_s: float) -> None:
        for series in self._series.values():
            self._tell(series, at_s)

    def _tell(self, series: Series, at_s: float | None = None) -> None:
        if metrics := series.take():
            self._write(series.line(metrics, self._namespace, self._clock() if at_s is None else at_s))


class StdoutLines:
    """Standard output, line by line; where it cannot be written to, lines are dropped, and that is logged once."""

    def __init__(self) -> None:
        self._is_lost = False

    def write(self, line: bytes) -> None:
        """Write one line with one call, so that nothing else gets into it."""
        try:
            while line:
                line = line[os.write(_STDOUT, line) :]
        except OSError as error:
            if not self._is_lost:
                _LOG.warning("metrics cannot be written to standard output: %s", error)
            self._is_lost = True


def as_dimension(value: str) -> str:
    """A name as CloudWatch takes it: printable ASCII; others are written as in a URL."""
    is_plain = value.isascii() and value.isprintable() and bool(value.strip())
    return (value if is_plain else quote(value, safe=" /:,;=@()"))[:_LONGEST_DIMENSION]


def _columns(names: Iterable[str], rows: list[Values]) -> Iterator[tuple[str, list[float]]]:
    """The values of each name, milliseconds where the rows have seconds."""
    for name, column in zip(names, zip(*rows, strict=True), strict=True) if rows else ():
        scale = 1000.0 if UNITS[name] == "Milliseconds" else 1
        values = [round(value * scale, 3) for value in column if value is not None]
        if values:
            yield name, values
