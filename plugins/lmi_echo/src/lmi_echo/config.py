# SPDX-License-Identifier: Apache-2.0
"""Options of the echo backend."""

from lmi.api import BackendConfig, option


class EchoConfig(BackendConfig):
    max_rolling_batch_size: int = option(
        256, description="Requests echoed at the same time; more wait their turn.", unit="sequences", ge=1
    )
    max_model_len: int = option(8192, description="Longest prompt plus output.", unit="tokens", ge=2)
    step_delay_ms: float = option(
        0.0,
        description="Time one step takes: 0 for none; more to watch a stream or to imitate a slow model.",
        unit="ms",
        ge=0,
        le=60000,
    )
