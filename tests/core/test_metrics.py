# SPDX-License-Identifier: Apache-2.0
"""What is counted of requests, and how Prometheus reads it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmi.config.server import ServerOptions
from lmi.container import Container
from lmi.plugins import Plugins
from lmi.serving.context import Context
from lmi.serving.emf import EmfLog
from lmi.serving.histogram import Histogram
from lmi.serving.metrics import Metrics
from lmi.serving.timings import Subject
from tests.emf_documents import document, metrics_of


@dataclass
class Answered:
    """A request that began 1 s after it came, had its first token after 3 s, its last after 5 s, and 9 tokens."""

    arrived_s: float
    request: Subject = field(default_factory=lambda: Subject("llama"))
    n_prompt_tokens: int = 4
    n_output_tokens: int = 9
    n_longest: int = 9
    n_writes: int = 2

    def __post_init__(self) -> None:
        self.begun_s, self.first_token_s, self.last_token_s = (self.arrived_s + each for each in (1, 3, 5))


def samples_of(metrics: Metrics) -> dict[str, float]:
    """By name and labels; buckets with their bound."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found["/".join([sample.name, *(value for _, value in sorted(sample.labels.items()))])] = sample.value
    return found


def model(**changes: Any) -> Any:
    stats = {"n_running": 0, "n_waiting": 0, "kv_used_tokens": 0, "kv_total_tokens": 0, "n_steps": 0}
    stats |= {"n_guessed_tokens": 0, "n_accepted_tokens": 0}
    workers = [
        SimpleNamespace(label=f"llama/{index}", stats=SimpleNamespace(**{**stats, **each}))
        for index, each in enumerate(changes.pop("workers", [{}]))
    ]
    pool = SimpleNamespace(workers=workers, **{"n_requests": 0, "n_waiting": 0, "n_deaths": 0, **changes})
    return SimpleNamespace(name="llama", pool=pool, adapters={"fr", "de"})


def test_times_count_from_the_arrival() -> None:
    metrics, now_s = Metrics({"llama": model()}), time.monotonic()
    metrics.count(Answered(now_s - 10), "ok", now_s - 10)
    found = samples_of(metrics)
    assert found["lmi_queue_seconds_sum/llama"] == pytest.approx(1)
    assert found["lmi_time_to_first_token_seconds_sum/llama"] == pytest.approx(3)
    assert found["lmi_time_per_output_token_seconds_sum/llama"] == pytest.approx(2 / 8)
    assert found["lmi_request_seconds_sum/llama"] == pytest.approx(10, abs=0.5)
    assert found["lmi_output_tokens_total/llama"] == 9
    assert found["lmi_stream_writes_total/llama"] == 2
    assert found["lmi_requests_total/llama/ok"] == 1


def test_a_token_that_is_alone_took_no_time_after_the_first() -> None:
    metrics, now_s = Metrics({"llama": model()}), time.monotonic()
    answered = Answered(now_s)
    answered.n_longest = 1
    metrics.count(answered, "ok", now_s)
    assert "lmi_time_per_output_token_seconds_count/llama" not in samples_of(metrics)


def test_a_request_that_never_began_waited_until_its_end() -> None:
    metrics, now_s = Metrics({"llama": model()}), time.monotonic()
    answered = Answered(now_s - 7)
    answered.begun_s = answered.first_token_s = answered.last_token_s = 0.0
    metrics.count(answered, "cancelled", now_s - 7)
    found = samples_of(metrics)
    assert found["lmi_queue_seconds_sum/llama"] == pytest.approx(7, abs=0.5)
    assert "lmi_time_to_first_token_seconds_sum/llama" not in found


def test_what_an_adapter_answers_counts_for_the_model_too() -> None:
    metrics, now_s = Metrics({"llama": model()}), time.monotonic()
    for target in (Subject("llama"), Subject("llama", "fr")):
        metrics.count(Answered(now_s, request=target), "ok", now_s)
    found = samples_of(metrics)
    assert found["lmi_requests_total/llama/ok"] == 2
    assert found["lmi_adapter_requests_total/fr/llama/ok"] == 1
    assert found["lmi_output_tokens_total/llama"] == 18
    assert found["lmi_adapter_output_tokens_total/fr/llama"] == 9
    assert found["lmi_adapter_queue_seconds_count/fr/llama"] == 1


def test_what_was_counted_of_an_adapter_goes_with_it_and_is_told_before() -> None:
    lines: list[bytes] = []
    models = {"llama": model()}
    metrics, now_s = Metrics(models, EmfLog("LMI", write=lines.append)), time.monotonic()
    for adapter in ("fr", "de", ""):
        metrics.count(Answered(now_s, request=Subject("llama", adapter)), "ok", now_s)
    models["llama"].adapters.remove("fr")
    metrics.sample()
    [told] = lines
    assert document(told)["Adapter"] == "fr"
    assert {"de/llama/ok", "llama/ok"} == {
        name.partition("/")[2] for name in samples_of(metrics) if "requests_total/" in name
    }
    del models["llama"]
    assert not [name for name in samples_of(metrics) if name.startswith("lmi_adapter_requests_total")]


def test_refused_requests_are_counted_by_their_error() -> None:
    metrics = Metrics({"llama": model()})
    metrics.refuse("llama", "queue.full")
    metrics.refuse("llama", "queue.full")
    metrics.refuse("", "request.no-model")
    found = samples_of(metrics)
    assert found["lmi_refused_requests_total/queue.full/llama"] == 2
    assert found["lmi_refused_requests_total/request.no-model/"] == 1


def test_what_was_counted_of_a_model_goes_with_it() -> None:
    lines: list[bytes] = []
    models = {"llama": model(workers=[{"n_running": 3}], n_requests=3)}
    metrics, now_s = Metrics(models, EmfLog("LMI", write=lines.append)), time.monotonic()
    metrics.sample()
    metrics.refuse("llama", "queue.full")
    metrics.count(Answered(now_s, request=Subject("llama", "fr")), "ok", now_s)
    assert any("llama" in name for name in samples_of(metrics))
    del models["llama"]
    assert not any("llama" in name for name in samples_of(metrics))
    metrics.close()
    assert [document(line).get("Adapter") for line in lines] == [None, "fr"], "the log is told of it before, once"


def test_batches_are_looked_at_while_there_are_any() -> None:
    served = model(workers=[{"n_running": 3}, {"n_running": 0}, {"n_running": 9}], n_waiting=2)
    metrics = Metrics({"llama": served})
    metrics.sample()
    served.pool.workers[0].stats.n_running = 0
    metrics.sample()
    found = samples_of(metrics)
    assert (found["lmi_batch_size_count/llama"], found["lmi_batch_size_sum/llama"]) == (3, 21)
    assert (found["lmi_batch_size_bucket/2.0/llama"], found["lmi_batch_size_bucket/4.0/llama"]) == (0, 1)
    assert found["lmi_queued_requests/llama"] == 2


def test_the_log_is_told_the_same() -> None:
    lines: list[bytes] = []
    workers = [{"n_running": 2, "kv_used_tokens": 10, "kv_total_tokens": 100}, {"kv_total_tokens": 100}]
    metrics = Metrics({"llama": model(workers=workers, n_requests=5, n_waiting=3)}, EmfLog("LMI", write=lines.append))
    now_s = time.monotonic()
    metrics.count(Answered(now_s - 10, request=Subject("llama", "fr")), "ok", now_s - 10)
    metrics.refuse("llama", "queue.full")
    metrics.sample()
    metrics.close()
    base, adapter = (document(line) for line in lines)
    told = metrics_of(base)
    assert (told["QueueTime"], told["TimeToFirstToken"], told["TimePerOutputToken"]) == ([1000], [3000], [250])
    assert (told["RequestsRunning"], told["RequestsWaiting"], told["BatchSize"], told["CacheUse"]) == (
        [2], [3], [2], [0.05],
    )  # fmt: skip
    assert (told["Requests"], told["RefusedRequests"]) == (1, 1)
    assert (adapter["Adapter"], adapter["QueueTime"]) == ("fr", [1000])


def test_a_value_is_in_the_class_whose_bound_it_does_not_pass() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 7):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("5.0", 4), ("+Inf", 5)]
    assert (histogram.n, histogram.total) == (5, 15)


@pytest.mark.parametrize(
    ("options", "container", "is_told"),
    [
        ({}, Container(), False),
        ({}, Container(is_sagemaker=True), True),
        ({"metrics_log": "none"}, Container(is_sagemaker=True), False),
        ({"metrics_log": "emf"}, Container(), True),
    ],
)
def test_by_itself_a_server_writes_them_on_sagemaker(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], container: Container, is_told: bool
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda number, data: written.append(data) or len(data))
    context = Context(Plugins.discover({"LMI_EXTENSIONS": ""}), ServerOptions(**options), container)
    context.metrics.refuse("llama", "queue.full")
    context.metrics.close()
    assert bool(written) is is_told
