# SPDX-License-Identifier: Apache-2.0
"""How long the platform waits, in this run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from lmi import sagemaker_limits as limits


@dataclass(frozen=True, kw_only=True)
class Times:
    """The platform's times, in seconds; it does not tell how often it pings."""

    accept: float = limits.CONNECT_S
    ping: float = limits.PING_S
    ping_every: float = 5.0
    startup: float = limits.STARTUP_S
    startup_ping_every: float = 1.0
    invocation: float = limits.INVOCATION_S
    stream: float = limits.STREAM_S
    stop: float = limits.STOP_S
    model_wait: float = limits.MODEL_WAIT_S
    model_load: float = limits.MODEL_LOAD_S

    def changed(self, seconds: Mapping[str, float]) -> Times:
        """Some of them with other values.

        Args:
            seconds: by name.
        """
        return replace(self, **{name.replace("-", "_"): value for name, value in seconds.items()})


NAMES = tuple(each.name.replace("_", "-") for each in fields(Times))
"""As the command line has them."""
