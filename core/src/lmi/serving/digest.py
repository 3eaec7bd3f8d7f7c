# SPDX-License-Identifier: Apache-2.0
"""The last lines of a start that failed, which is what an endpoint's owner sees of it."""

from __future__ import annotations

from lmi.api.errors import LmiError
from lmi.workers.worker import Worker

_OF_THE_NETWORK = ("model.unreachable", "model.access-denied")
_ISOLATED = (
    "With network isolation (EnableNetworkIsolation) nothing outside of the container can be reached: put the model "
    "into the endpoint's model data, which is then in /opt/ml/model"
)


def failure_digest(error: LmiError, worker: Worker | None, *, is_hosted: bool = False) -> str:
    """Cause, evidence and remedy, in lines.

    Args:
        error: why it failed.
        worker: that did, if it was one.
        is_hosted: whether SageMaker runs the server, whose endpoints may have no network.
    """
    lines = ["", "LMI could not start", f"  cause:    {error.without_hint()}"]
    if worker is not None and worker.exit is not None:
        lines.append(f"  evidence: worker {worker.label} {worker.reason}, in stage {worker.stage!r}; its last lines:")
        lines += [f"            {line}" for line in worker.exit.last_lines]
    remedy = error.hint or ("Read the worker's lines above" if worker is not None else "")
    if remedy:
        lines.append(f"  remedy:   {remedy}")
    if is_hosted and error.code in _OF_THE_NETWORK:
        lines.append(f"            {_ISOLATED}")
    return "\n".join(lines)
