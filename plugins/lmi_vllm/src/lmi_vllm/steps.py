# SPDX-License-Identifier: Apache-2.0
"""Counts of vLLM's steps, as its engine reports them after each one."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger


class StepCounter:
    """What the last step left: requests, waiting ones and the used share of the cache.

    Args:
        n_steps: steps since the start, those that only read a part of a prompt included.
    """

    def __init__(self) -> None:
        self.n_steps = 0
        self.n_running = 0
        self.n_waiting = 0
        self.kv_share = 0.0

    def logger(self) -> type[PrometheusStatLogger]:
        """The class of the logger that vLLM shall have; it counts here.

        vLLM adds a Prometheus logger to any list of loggers without one: some 90 us a step for metrics that nobody
        reads, since a server's come from ``EngineStats``. So this is one, and records nothing else.
        """
        counter = self

        class _Logger(PrometheusStatLogger):  # type: ignore[misc] # vLLM is not installed where types are checked
            """Source: vllm/v1/metrics/loggers.py."""

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
            ) -> None:
                if scheduler_stats is not None:
                    counter.took(scheduler_stats)

        return _Logger

    def took(self, stats: Any) -> None:
        self.n_steps += 1
        self.n_running = stats.num_running_reqs
        self.n_waiting = stats.num_waiting_reqs
        self.kv_share = stats.kv_cache_usage
