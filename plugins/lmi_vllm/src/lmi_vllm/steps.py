# SPDX-License-Identifier: Apache-2.0
"""Counts of vLLM's steps, as its engine reports them after each one."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase


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

    def logger(self, vllm_config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        """What vLLM calls to get a logger; it counts here."""
        return _Logger(self)

    def took(self, stats: Any) -> None:
        self.n_steps += 1
        self.n_running = stats.num_running_reqs
        self.n_waiting = stats.num_waiting_reqs
        self.kv_share = stats.kv_cache_usage


class _Logger(StatLoggerBase):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Source: vllm/v1/metrics/loggers.py, the interface for custom loggers."""

    def __init__(self, counter: StepCounter) -> None:
        self._counter = counter

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            self._counter.took(scheduler_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to log."""
