# SPDX-License-Identifier: Apache-2.0
"""What a server counts and measures: for Prometheus at any time, and for the log where a platform wants it there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lmi.serving.emf import EmfLog, Series
from lmi.serving.histogram import Histogram
from lmi.serving.timings import Measured

if TYPE_CHECKING:
    from lmi.serving.models import Model

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Tally:
    """Counts of one model, or of one of its adapters.

    Args:
        series: told the same; None where nobody reads a log.
    """

    __slots__ = (
        "first_token_s", "n_output_tokens", "n_prompt_tokens", "n_writes", "outcomes", "per_token_s", "queue_s",
        "request_s", "series",
    )  # fmt: skip

    def __init__(self, series: Series | None) -> None:
        self.series = series
        self.outcomes: dict[str, int] = {}
        self.n_prompt_tokens = self.n_output_tokens = self.n_writes = 0
        self.queue_s, self.first_token_s, self.request_s = Histogram(_SECONDS), Histogram(_SECONDS), Histogram(_SECONDS)
        self.per_token_s = Histogram(_TOKEN_SECONDS)

    def count(self, measured: Measured, outcome: str, arrived_s: float, now_s: float) -> None:
        """Count one request that ended."""
        n_prompt, n_output = measured.n_prompt_tokens, measured.n_output_tokens
        first_s, n_after_first = measured.first_token_s, measured.n_longest - 1
        queue_s = (measured.begun_s or first_s or now_s) - arrived_s
        first_token_s = first_s - arrived_s if first_s else None
        per_token_s = None
        if first_s and n_after_first > 0:
            per_token_s = ((measured.last_token_s or now_s) - first_s) / n_after_first
            self.per_token_s.observe(per_token_s)
        if first_token_s is not None:
            self.first_token_s.observe(first_token_s)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.n_prompt_tokens += n_prompt
        self.n_output_tokens += n_output
        self.n_writes += measured.n_writes
        self.queue_s.observe(queue_s)
        self.request_s.observe(now_s - arrived_s)
        if self.series is not None:
            self.series.add(outcome, (queue_s, first_token_s, per_token_s, now_s - arrived_s, n_prompt, n_output))


class Metrics:
    """Counts of one server.

    Args:
        models: read at each scrape and sample.
        log: where lines of metrics are written, if anywhere.
    """

    def __init__(self, models: Mapping[str, Model], log: EmfLog | None = None) -> None:
        self._models, self._log = models, log
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._batches: dict[str, Histogram] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(self._tallies, self._refused, self._batches))
        self._registry.register(_Workers(models))

    def count(self, measured: Measured, outcome: str, arrived_s: float) -> None:
        """Count one request that was admitted and ended.

        Args:
            measured: it.
            outcome: ``ok``, ``cancelled`` or ``error``.
            arrived_s: when it came, by ``time.monotonic``.
        """
        now_s, asked = time.monotonic(), measured.request
        self._tally(asked.model, "").count(measured, outcome, arrived_s, now_s)
        if asked.adapter:
            self._tally(asked.model, asked.adapter).count(measured, outcome, arrived_s, now_s)

    def refuse(self, model: str, code: str) -> None:
        """Count one request that was refused before it began.

        Args:
            model: its name; empty where that is not known.
            code: of the error.
        """
        self._refused[model, code] = self._refused.get((model, code), 0) + 1
        if model and self._log is not None:
            self._log.series(model).refuse()

    def sample(self) -> None:
        """Note how things are with models that have requests; called every second or so."""
        self._forget_removed()
        for name, model in self._models.items():
            sizes = [worker.stats.n_running for worker in model.pool.workers if worker.stats.n_running]
            if sizes:
                batches = self._batches.setdefault(name, Histogram(_SIZES))
                for size in sizes:
                    batches.observe(size)
            if self._log is not None and (n_requests := model.pool.n_requests):
                n_waiting = model.pool.n_waiting
                mean_size = sum(sizes) / len(sizes) if sizes else None
                self._log.series(name).sample((n_requests - n_waiting, n_waiting, mean_size, cache_use(model)))
        if self._log is not None:
            self._log.look()

    def close(self) -> None:
        """Write what the log has not been told."""
        if self._log is not None:
            self._log.close()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self._forget_removed()
        return generate_latest(self._registry)

    def _forget_removed(self) -> None:
        """Drop what was counted of models and adapters that are gone: names come and go without end."""
        for key in [key for key in self._tallies if not self._is_there(*key)]:
            del self._tallies[key]
        for refused in [key for key in self._refused if key[0] and key[0] not in self._models]:
            del self._refused[refused]
        for name in self._batches.keys() - self._models.keys():
            del self._batches[name]
        if self._log is not None:
            self._log.keep(self._is_there)

    def _is_there(self, model: str, adapter: str) -> bool:
        return model in self._models and (not adapter or adapter in self._models[model].adapters)

    def _tally(self, model: str, adapter: str) -> Tally:
        tally = self._tallies.get((model, adapter))
        if tally is None:
            series = None if self._log is None else self._log.series(model, adapter)
            tally = self._tallies[model, adapter] = Tally(series)
        return tally


def cache_use(model: Model) -> float | None:
    """The share of the cache that is in use, of all copies; None where there is none, or nobody tells."""
    stats = [worker.stats for worker in model.pool.workers]
    n_total = sum(each.kv_total_tokens for each in stats)
    return sum(each.kv_used_tokens for each in stats) / n_total if n_total else None


_NUMBERS: tuple[tuple[str, str, Callable[[Tally], float]], ...] = (
    ("prompt_tokens", "Tokens of prompts", lambda tally: tally.n_prompt_tokens),
    ("output_tokens", "Tokens produced", lambda tally: tally.n_output_tokens),
    ("stream_writes", "Writes to streams; tokens that wait share one", lambda tally: tally.n_writes),
)
_SPREADS: tuple[tuple[str, str, Callable[[Tally], Histogram]], ...] = (
    ("queue_seconds", "From the arrival of a request to a place in a worker's batch", lambda tally: tally.queue_s),
    ("time_to_first_token_seconds", "From the arrival to the first token", lambda tally: tally.first_token_s),
    ("time_per_output_token_seconds", "Mean time of a token after the first", lambda tally: tally.per_token_s),
    ("request_seconds", "From the arrival to the end", lambda tally: tally.request_s),
)


class _Counts(Collector):
    """What was counted, of models and of adapters; a request with an adapter is in both."""

    def __init__(
        self,
        tallies: Mapping[tuple[str, str], Tally],
        refused: Mapping[tuple[str, str], int],
        batches: Mapping[str, Histogram],
    ) -> None:
        self._tallies, self._refused, self._batches = tallies, refused, batches

    def collect(self) -> Iterator[Metric]:
        of_models = [([model], tally) for (model, adapter), tally in self._tallies.items() if not adapter]
        of_adapters = [([*key], tally) for key, tally in self._tallies.items() if key[1]]
        yield from _families("lmi_", "", ["model"], of_models)
        yield from _families("lmi_adapter_", ", of one adapter", ["model", "adapter"], of_adapters)
        refused = CounterMetricFamily(
            "lmi_refused_requests", "Requests refused before they began", labels=["model", "code"]
        )
        for key, n in self._refused.items():
            refused.add_metric(key, n)
        yield refused
        sizes = HistogramMetricFamily(
            "lmi_batch_size",
            "Requests in a worker's batch, looked at every second while there are any",
            labels=["model"],
        )
        for model, histogram in self._batches.items():
            sizes.add_metric([model], histogram.buckets(), histogram.total)
        yield sizes


def _families(
    start: str, whose: str, labels: list[str], tallies: Iterable[tuple[list[str], Tally]]
) -> Iterator[Metric]:
    tallies = list(tallies)
    requests = CounterMetricFamily(
        f"{start}requests", f"Requests that were admitted{whose}, by outcome", labels=[*labels, "outcome"]
    )
    for values, tally in tallies:
        for outcome, n in tally.outcomes.items():
            requests.add_metric([*values, outcome], n)
    yield requests
    for name, text, number_of in _NUMBERS:
        numbers = CounterMetricFamily(f"{start}{name}", text + whose, labels=labels)
        for values, tally in tallies:
            numbers.add_metric(values, number_of(tally))
        yield numbers
    for name, text, spread_of in _SPREADS:
        spread = HistogramMetricFamily(f"{start}{name}", text + whose, labels=labels)
        for values, tally in tallies:
            if (histogram := spread_of(tally)).n:
                spread.add_metric(values, histogram.buckets(), histogram.total)
        yield spread


class _Workers(Collector):
    """Gauges read from the workers' last heartbeats."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        fields = {
            "n_running": ("lmi_running_requests", "Requests in the batch"),
            "n_waiting": ("lmi_waiting_requests", "Requests that wait for a slot"),
            "kv_used_tokens": ("lmi_kv_used_tokens", "Cache tokens in use"),
            "kv_total_tokens": ("lmi_kv_total_tokens", "Cache tokens there are"),
            "n_steps": ("lmi_engine_steps", "Steps of the engine since its start"),
            "n_guessed_tokens": ("lmi_draft_guessed_tokens", "Tokens that a draft model guessed since the start"),
            "n_accepted_tokens": ("lmi_draft_accepted_tokens", "Guesses of a draft model that were right"),
        }
        for field, (name, text) in fields.items():
            gauge = GaugeMetricFamily(name, text, labels=["model", "worker"])
            for model in self._models.values():
                for worker in model.pool.workers:
                    gauge.add_metric([model.name, worker.label], getattr(worker.stats, field))
            yield gauge
        queued = GaugeMetricFamily(
            "lmi_queued_requests", "Requests that wait for a worker, or for a place in its batch", labels=["model"]
        )
        deaths = CounterMetricFamily("lmi_worker_deaths", "Workers that died", labels=["model"])
        for model in self._models.values():
            queued.add_metric([model.name], model.pool.n_waiting)
            deaths.add_metric([model.name], model.pool.n_deaths)
        yield from (queued, deaths)
