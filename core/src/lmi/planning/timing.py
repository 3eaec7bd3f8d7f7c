# SPDX-License-Identifier: Apache-2.0
"""How long a start takes, with what was assumed, against the times that it may take."""

from __future__ import annotations

import msgspec

from lmi.api import BackendInfo, ModelArtifacts, Problem, Severity
from lmi.planning.instances import Instance
from lmi.planning.ranking import compiles_at_start
from lmi.planning.units import shown_bytes, shown_compiling, shown_seconds

PLATFORM_S = 480
PLATFORM_MOST_S = 3600
"""How long SageMaker waits for a container unless it is told otherwise, and the longest that it can be told. Sources:
its developer guide; ContainerStartupHealthCheckTimeoutInSeconds in its API."""

_DISK_BYTES_S = 500_000_000
_NETWORK_BYTES_S = 1_250_000_000
_FIRST_S = 30
"""Assumed: a disk of 500 MB/s, a store that gives 10 Gbit/s, and half a minute for libraries and first steps."""

_NETWORK_PART = 0.5
_BURST_PART = 0.25
"""Of the rate of a machine's network that one download gets; of one that does not last, less."""

_COMPILE_BYTES_S = 80e9 / 420
"""LMI's tutorial on compiling ahead of time: 7 minutes and more for models of 40 billion parameters and up, of which
those have 80 GB."""


class StartTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long a start takes.

    Args:
        load_s: until the weights are loaded.
        compile_s: for compiling before that, at least; 0 where nothing is compiled.
        rate_bytes_s: that weights are assumed to come at.
        assumption: what was assumed, in words.
        timeout_s: ``option.model_loading_timeout``.
    """

    load_s: float
    compile_s: float
    rate_bytes_s: float
    assumption: str
    timeout_s: float

    @property
    def total_s(self) -> float:
        return self.load_s + self.compile_s


def start_time(
    artifacts: ModelArtifacts, stored_bytes: int, info: BackendInfo | None, instance: Instance | None, timeout_s: float
) -> StartTime:
    """Reckon how long a start takes.

    Args:
        artifacts: the model; one that is elsewhere comes over the network.
        stored_bytes: of its weights.
        info: the backend; None where none was chosen.
        instance: the machine, where its network is known.
        timeout_s: ``option.model_loading_timeout``.
    """
    rate: float = _DISK_BYTES_S
    assumption = f"from a disk that gives {shown_bytes(rate)} a second"
    if artifacts.is_elsewhere:
        rate = _NETWORK_BYTES_S
        if instance is not None:
            part = _BURST_PART if instance.is_burst else _NETWORK_PART
            rate = min(rate, instance.network_gbps * 1e9 / 8 * part)
        assumption = f"over a network that gives {shown_bytes(rate)} a second, then from the page cache"
    compiles = info is not None and compiles_at_start(info, artifacts)
    return StartTime(
        load_s=_FIRST_S + stored_bytes / rate,
        compile_s=stored_bytes / _COMPILE_BYTES_S if compiles else 0.0,
        rate_bytes_s=rate,
        assumption=assumption,
        timeout_s=timeout_s,
    )


def start_problems(time: StartTime, info: BackendInfo) -> list[Problem]:
    """Warnings: that a start compiles, and that it takes longer than it may.

    Args:
        time: what it takes.
        info: the backend.
    """
    problems = []
    if time.compile_s:
        problems.append(
            Problem(
                code="start.compiles",
                message=f"{info.name} compiles this model at every start, for {shown_compiling(time.compile_s)}",
                hint="Compile it once, ahead of time, and serve what comes out",
                severity=Severity.WARNING,
            )
        )
    total = shown_seconds(time.total_s)
    if time.total_s > time.timeout_s:
        problems.append(
            Problem(
                code="start.too-slow",
                message=f"a start takes about {total}, and model_loading_timeout ends it after "
                f"{shown_seconds(time.timeout_s)}",
                hint=f"Set option.model_loading_timeout={round(1.5 * time.total_s / 60) * 60}",
                severity=Severity.WARNING,
            )
        )
    elif time.total_s > PLATFORM_S:
        wanted = min(PLATFORM_MOST_S, round(1.5 * time.total_s / 60) * 60)
        problems.append(
            Problem(
                code="start.too-slow",
                message=f"a start takes about {total}, and SageMaker waits {shown_seconds(PLATFORM_S)} unless told",
                hint=f"Give the endpoint ContainerStartupHealthCheckTimeoutInSeconds={wanted}",
                severity=Severity.WARNING,
            )
        )
    return problems
