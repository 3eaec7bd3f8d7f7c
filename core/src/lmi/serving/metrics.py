# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lmi.api.texts import TextRequest

if TYPE_CHECKING:
    from lmi.serving.models import Model

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Counted(Protocol):
    """A request that was answered, by one sequence or several."""

    request: TextRequest
    started_s: float
    n_writes: int

    @property
    def n_prompt_tokens(self) -> int: ...
    @property
    def n_output_tokens(self) -> int: ...
    @property
    def first_token_s(self) -> float: ...


class Metrics:
    """Counts of one server; ``models`` is read at each scrape."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lmi_requests", "Requests that were admitted, by outcome", ["model", "outcome"], registry=self._registry
        )
        self._prompt_tokens = Counter("lmi_prompt_tokens", "Tokens of prompts", ["model"], registry=self._registry)
        self._output_tokens = Counter("lmi_output_tokens", "Tokens produced", ["model"], registry=self._registry)
        self._first_token_s = Histogram(
            "lmi_time_to_first_token_seconds",
            "From admission to the first token",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._request_s = Histogram(
            "lmi_request_seconds", "From admission to the end", ["model"], buckets=_SECONDS, registry=self._registry
        )
        self._writes = Counter(
            "lmi_stream_writes", "Writes to streams; tokens that wait share one", ["model"], registry=self._registry
        )
        self._adapter_requests = Counter(
            "lmi_adapter_requests",
            "Requests that named an adapter, by outcome; lmi_requests counts them, too",
            ["model", "adapter", "outcome"],
            registry=self._registry,
        )
        self._of: dict[tuple[str, str], Callable[[Counted], None]] = {}
        self._registry.register(_Workers(models))

    def count(self, generation: Counted, outcome: str) -> None:
        """Count one request that ended: ``ok``, ``cancelled`` or ``error``."""
        name = generation.request.model
        count = self._of.get((name, outcome)) or self._counter(name, outcome)
        count(generation)
        if adapter := generation.request.adapter:
            self._adapter_requests.labels(name, adapter, outcome).inc()

    def count_without_tokens(self, name: str, outcome: str, duration_s: float, n_prompt_tokens: int = 0) -> None:
        """Count one request that produced no tokens: vectors, labels, or the answer of a model's own function."""
        self._prompt_tokens.labels(name).inc(n_prompt_tokens)
        self._requests.labels(name, outcome).inc()
        self._request_s.labels(name).observe(duration_s)

    def _counter(self, name: str, outcome: str) -> Callable[[Counted], None]:
        """The metrics of a model and an outcome, with their labels looked up once."""
        requests = self._requests.labels(name, outcome)
        prompt_tokens, output_tokens = self._prompt_tokens.labels(name), self._output_tokens.labels(name)
        request_s, first_token_s = self._request_s.labels(name), self._first_token_s.labels(name)
        writes = self._writes.labels(name)

        def count(generation: Counted) -> None:
            requests.inc()
            prompt_tokens.inc(generation.n_prompt_tokens)
            output_tokens.inc(generation.n_output_tokens)
            request_s.observe(time.monotonic() - generation.started_s)
            if generation.first_token_s:
                first_token_s.observe(generation.first_token_s - generation.started_s)
            if generation.n_writes:
                writes.inc(generation.n_writes)

        self._of[name, outcome] = count
        return count

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


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
        deaths = CounterMetricFamily("lmi_worker_deaths", "Workers that died", labels=["model"])
        for model in self._models.values():
            deaths.add_metric([model.name], model.pool.n_deaths)
        yield deaths
