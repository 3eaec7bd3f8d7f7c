# SPDX-License-Identifier: Apache-2.0
"""Settings that SageMaker's limits make the defaults, where it runs the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmi.config.settings import Setting
from lmi.container import BATCH, MAX_PAYLOAD_MB, Container
from lmi.sagemaker_limits import BATCH_PAYLOAD_MB, BODY_BYTES

_REQUEST_SIZE = "max_request_size"
_NO_LIMIT_BYTES = 1 << 40
_MB = 1 << 20


def from_container(environ: Mapping[str, str]) -> Iterator[Setting]:
    """What holds on SageMaker unless somebody says otherwise; nothing elsewhere.

    Raises:
        ConfigError: a variable of the platform is not in its form.
    """
    container = Container.of(environ)
    if container.is_batch:
        chosen_mb = container.max_payload_mb
        limit_bytes = (BATCH_PAYLOAD_MB if chosen_mb is None else chosen_mb) * _MB
        yield Setting(
            _REQUEST_SIZE, str(limit_bytes or _NO_LIMIT_BYTES), BATCH if chosen_mb is None else MAX_PAYLOAD_MB
        )
    elif container.is_sagemaker:
        yield Setting(_REQUEST_SIZE, str(BODY_BYTES), "SageMaker's limit")
