# SPDX-License-Identifier: Apache-2.0
"""What the management routes say of a model. Source: the management API of DJL Serving."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from lmi.serving.models import ModelState
from lmi.workers.worker import WorkerState

if TYPE_CHECKING:
    from lmi.serving.models import Model
    from lmi.workers.worker import Worker

_STATUS = {
    ModelState.STARTING: "PENDING",
    ModelState.READY: "Healthy",
    ModelState.DEGRADED: "PartialHealthy",
    ModelState.FAILED: "FAILED",
}
_WORKER_STATUS = {WorkerState.STARTING: "LOADING", WorkerState.READY: "READY", WorkerState.DEAD: "UNLOADED"}
_TYPES = {"cuda": "gpu", "neuron": "nc"}
"""Kinds of devices as DJL Serving calls them."""


def status_of_model(model: Model) -> str:
    """In DJL Serving's words."""
    return _STATUS.get(model.state, "Unhealthy")


def describe(model: Model) -> dict[str, Any]:
    """A model with its copies, those of one device in a group."""
    plan, options = model.plan, model.plan.options
    groups: dict[str, list[Worker]] = {}
    for worker in model.pool.workers:
        groups.setdefault(worker.devices, []).append(worker)
    about = {
        "modelName": model.name,
        "version": plan.version or None,
        "modelUrl": plan.url,
        "engine": plan.info.name,
        "minWorkers": options.min_workers,
        "maxWorkers": options.max_workers,
        "batchSize": options.batch_size,
        "maxBatchDelayMillis": options.max_batch_delay,
        "maxIdleSeconds": options.max_idle_time,
        "queueLength": options.job_queue_size,
        "requestInQueue": model.pool.n_waiting,
        "status": status_of_model(model),
        "loadedAtStartup": not model.is_late,
        "workerGroups": [_group(devices, workers) for devices, workers in groups.items()],
    }
    return {"modelName": model.name, "version": plan.version or None, "models": [about]}


def _group(devices: str, workers: list[Worker]) -> dict[str, Any]:
    kind, _, numbers = devices.partition(":")
    first = numbers.partition(",")[0]
    device = {
        "deviceType": _TYPES.get(kind, "cpu"),
        "deviceId": int(first) if first.isdecimal() else -1,
    }
    return {"device": device, "workers": [_worker(number, each) for number, each in enumerate(workers, 1)]}


def _worker(number: int, worker: Worker) -> dict[str, Any]:
    started = datetime.datetime.fromtimestamp(worker.started_at_s, datetime.timezone.utc)
    return {
        "id": number,
        "startTime": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": _WORKER_STATUS[worker.state],
        "pid": worker.pid,
    }
