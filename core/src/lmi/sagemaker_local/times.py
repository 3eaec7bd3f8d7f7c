# SPDX-License-Identifier: Apache-2.0
"""How long the platform waits, in this run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from lmi import sagemaker_limits as limits


@dataclass(frozen=True, kw_only=True)
class Times:
    """The platform's times in seconds, and two that it does not tell: between two pings, before and in service."""

    accept_s: float = limits.CONNECT_S
    ping_s: float = limits.PING_S
    startup_s: float = limits.STARTUP_S
    invocation_s: float = limits.INVOCATION_S
    stream_s: float = limits.STREAM_S
    stop_s: float = limits.STOP_S
    model_wait_s: float = limits.MODEL_WAIT_S
    model_load_s: float = limits.MODEL_LOAD_S
    async_invocation_s: float = limits.ASYNC_INVOCATION_S
    async_age_s: float = limits.ASYNC_AGE_S
    starting_ping_every_s: float = 1.0
    ping_every_s: float = 5.0
    one_s: float = 1.0
    """A second of a time that a client names."""

    def scaled(self, factor: float) -> Times:
        """Each so many times as long."""
        return replace(self, **{each.name: getattr(self, each.name) * factor for each in fields(self)})
