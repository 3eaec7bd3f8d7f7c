# SPDX-License-Identifier: Apache-2.0
"""What a backend's author tells the kit: the backend, its settings, a model, and what only the author can know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOGPROB_TOLERANCE = 0.05
"""Nats between the chosen and the best id that count as equal where arithmetic is not exact."""


@dataclass(frozen=True, kw_only=True)
class BackendCase:
    """One backend on one model. The defaults suit a backend that needs no model, or loads a Llama.

    Args:
        backend: name of the backend.
        settings: options as a user writes them (``{"dtype": "fp32"}``); values may be text or typed.
        model: what is served: a name of ``lmi.testing.ARCHITECTURES`` (a tiny random checkpoint is written), a folder,
            or None for the backend's first choice: a tiny Llama, or nothing if it needs no model.
        is_exact: whether the same request gives the same ids in any company, as float32 does. If not, ids are compared
            by what they would have cost: each must be within LOGPROB_TOLERANCE of the best.
        kill_engine: makes a loaded engine die as it would die in earnest (rule L3). Not needed for a Stepper: the kit
            lets its next step fail.
        faults: at least three ways to spoil a copy of the model folder, each of which must be found (rule A2). Unset:
            tokenizer, weights and configuration are spoilt as a pretrained folder has them.
        adapter: a folder with an adapter for the model (rule K-adapters). Unset: one for a Llama is written.
        known_failures: rule id -> reason with a link to the upstream issue. Such a rule must fail: when it passes, the
            entry has to go.
        devices: the machine it is configured for, ``cuda:1`` or ``neuron:12``; so the rules that need no engine run on
            any machine. Unset: this one.
        tensor_parallel_degree: more than 1 where the machine can split this model (rule K-tensor_parallel).
        hot_temperature: a temperature at which hardly any draw is the most likely id, or the highest the engine takes.
        n_slots: ``max_rolling_batch_size`` that the rules run with.
        load_s: longest time a load may take.
        silence_s: longest time that may pass without a token from any running request.
    """

    backend: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str | Path | None = None
    is_exact: bool = True
    kill_engine: Callable[[Any], Any] | None = None
    faults: tuple[Callable[[Path], Any], ...] = ()
    adapter: Path | None = None
    known_failures: Mapping[str, str] = field(default_factory=dict)
    devices: str | None = None
    tensor_parallel_degree: int = 1
    hot_temperature: float = 20.0
    n_slots: int = 4
    load_s: float = 300.0
    silence_s: float = 20.0
