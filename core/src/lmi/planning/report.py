# SPDX-License-Identifier: Apache-2.0
"""A plan as programs read it: ``lmi.plan/1``. Fields are added to it, never renamed or taken away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lmi.api import BackendInfo, ModelArtifacts, Problem, Target
from lmi.checking import problems_as_json
from lmi.planning.estimates import Estimate
from lmi.planning.fit import Fit
from lmi.planning.load import Load
from lmi.planning.machines import Machine
from lmi.planning.ranking import Candidate
from lmi.planning.timing import PLATFORM_MOST_S, PLATFORM_S, StartTime
from lmi.planning.weights import own_quantization

SCHEMA = "lmi.plan/1"


@dataclass
class Plan:
    """Everything that was found out for one model.

    Args:
        model: its name.
        artifacts: its files; None where they were not found.
        target: the machine.
        info: the backend; None where none was chosen.
        reason: why it was chosen.
        unknown: why nothing could be reckoned; empty where it could.
        is_whole: whether the weights that were found are all of the model's, as far as their files tell.
        estimate: at the degree of the configuration; None where nothing could be reckoned.
        fits: at each degree.
        wanted_degree: the one that the user set; 0 where any will do.
        load: the load that was asked about, and how it is met; None where none was, or nothing could be reckoned.
        machines: that the model fits.
        candidates: backends, ranked.
        start: how long a start takes.
        problems: everything that is wrong or doubtful.
    """

    model: str
    artifacts: ModelArtifacts | None
    target: Target
    info: BackendInfo | None = None
    reason: str = ""
    unknown: str = ""
    is_whole: bool = True
    estimate: Estimate | None = None
    fits: list[Fit] = field(default_factory=list)
    wanted_degree: int = 0
    load: Load | None = None
    machines: list[Machine] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    start: StartTime | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_possible(self) -> bool | None:
        """Whether the model fits the machine, as it is wanted; None where that cannot be told."""
        if self.estimate is None or not self.estimate.is_memory_known:
            return None
        if self.load is not None:
            return self.load.is_met
        degrees = [fit for fit in self.fits if self.wanted_degree in (0, fit.degree)]
        return any(fit.fits for fit in degrees)

    @property
    def is_doubtful(self) -> bool:
        """Whether the model does not fit, or there is no telling because files of it are not there."""
        return self.is_possible is False or self.artifacts is None or not self.is_whole


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's stable form."""
    artifacts, target, found = plan.artifacts, plan.target, plan.estimate
    return {
        "schema": SCHEMA,
        "model": plan.model,
        "place": None if artifacts is None else artifacts.folder,
        "format": None if artifacts is None else artifacts.format.value,
        "architectures": [] if artifacts is None else list(artifacts.architectures),
        "backend": None if plan.info is None else {"name": plan.info.name, "reason": plan.reason},
        "machine": {
            "instance": target.instance or None,
            "accelerator": target.accelerator.value,
            "device": target.device_name or None,
            "n_devices": target.n_devices,
            "device_memory_bytes": (found.fit.memory_bytes if found else target.device_memory_bytes) or None,
        },
        "fits": plan.is_possible,
        "unknown": plan.unknown or None,
        "weights": None if found is None or artifacts is None else _weights(found, artifacts),
        "cache": None if found is None else _cache(found),
        "degrees": [_fit(fit, plan) for fit in plan.fits],
        "load": _load(plan),
        "machines": [_machine(each) for each in plan.machines],
        "backends": [_candidate(each) for each in plan.candidates],
        "start": _start(plan.start),
        "problems": problems_as_json(plan.problems),
    }


def _weights(found: Estimate, artifacts: ModelArtifacts) -> dict[str, Any]:
    weights = found.weights
    return {
        "stored_bytes": weights.stored_bytes,
        "served_bytes": weights.n_bytes,
        "dtype": weights.dtype,
        "quantization": weights.quantization or None,
        "copied_head_bytes": weights.copied_bytes or None,
        "is_quantized_checkpoint": bool(own_quantization(artifacts)),
    }


def _cache(found: Estimate) -> dict[str, Any]:
    from lmi.planning.cache import CacheShape

    whole = CacheShape.of(found.shape, found.sizing.cache_dtype)
    return {
        "dtype": found.sizing.cache_dtype,
        "token_bytes": whole.token_bytes,
        "window_tokens": found.shape.window_tokens or None,
        "max_model_len": found.sizing.max_model_len,
        "max_sequences": found.sizing.max_sequences,
    }


def _fit(fit: Fit, plan: Plan) -> dict[str, Any]:
    is_known = fit.memory_bytes > 0 and not fit.refusal
    return {
        "tensor_parallel_degree": fit.degree,
        "is_configured": plan.estimate is not None and fit.degree == plan.estimate.fit.degree,
        "fits": fit.fits if fit.memory_bytes else None,
        "refusal": fit.refusal or None,
        "weight_bytes": fit.weight_bytes,
        "activation_bytes": fit.activation_bytes,
        "overhead_bytes": fit.overhead_bytes,
        "reserve_bytes": fit.reserve_bytes,
        "cache_bytes": fit.cache_bytes if is_known else None,
        "cache_token_bytes": fit.cache.token_bytes,
        "most_tokens": fit.most_tokens if is_known else None,
        "n_sequences": fit.n_sequences if is_known else None,
        "n_copies": max(1, plan.target.n_devices) // fit.degree,
    }


def _load(plan: Plan) -> dict[str, Any] | None:
    if plan.load is None:
        return None
    demand, met = plan.load.demand, plan.load.answer
    return {
        "concurrency": demand.concurrency,
        "input_tokens": demand.input_tokens,
        "output_tokens": demand.output_tokens,
        "cache_bytes": None if met is None else met.cache_bytes,
        "tensor_parallel_degree": None if met is None else met.fit.degree,
        "n_sequences": None if met is None else met.n_sequences,
        "n_copies": None if met is None else met.n_copies,
        "n_machines": None if met is None else met.n_machines,
        "is_met": plan.is_possible,
        "advice": list(plan.load.advice) if plan.is_possible is not None else [],
    }


def _machine(machine: Machine) -> dict[str, Any]:
    instance = machine.instance
    return {
        "instance": instance.name,
        "device": instance.device,
        "n_devices": instance.n_devices,
        "device_memory_bytes": instance.device_memory_bytes,
        "has_nvlink": instance.has_nvlink,
        "tensor_parallel_degree": machine.fit.degree,
        "n_copies": machine.n_copies,
        "n_sequences": machine.fit.n_sequences,
        "source": instance.source,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "package": candidate.package,
        "is_installed": candidate.is_installed,
        "takes": candidate.takes,
        "reason": candidate.reason,
        "install": candidate.install,
        "image": candidate.image or None,
        "tensor_parallel_degree": candidate.degree or None,
        "n_sequences": candidate.n_sequences,
    }


def _start(start: StartTime | None) -> dict[str, Any] | None:
    if start is None:
        return None
    return {
        "load_s": round(start.load_s),
        "compiles": start.compile_s > 0,
        "compile_s": round(start.compile_s) if start.compile_s >= 60 else None,
        "bytes_a_second": round(start.rate_bytes_s),
        "assumption": start.assumption,
        "model_loading_timeout_s": start.timeout_s,
        "platform_timeout_s": PLATFORM_S,
        "platform_most_s": PLATFORM_MOST_S,
    }
