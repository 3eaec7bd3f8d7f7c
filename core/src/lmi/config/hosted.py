# SPDX-License-Identifier: Apache-2.0
"""Settings that SageMaker's limits make the defaults, where it runs the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmi.config.settings import Setting
from lmi.container import BATCH, MAX_PAYLOAD_MB, Container
from lmi.sagemaker_limits import BODY_BYTES

_REQUEST_SIZE = "max_request_size"
_NO_LIMIT_BYTES = 1 << 40
_MB = 1 << 20
_OF_A_JOB = ("job_queue_size", "option.max_client_batch_size")
_MOST_RECORDS = 100_000
"""In a body of a batch transform job, which nobody else waits behind."""


def from_container(environ: Mapping[str, str]) -> Iterator[Setting]:
    """What holds on SageMaker unless somebody says otherwise; nothing elsewhere.

    Raises:
        ConfigError: a variable of the platform is not in its form.
    """
    container = Container.of(environ)
    if not container.is_batch:
        if container.is_sagemaker:
            yield Setting(_REQUEST_SIZE, str(BODY_BYTES), "SageMaker's limit")
        return
    for key in _OF_A_JOB:
        yield Setting(key, str(_MOST_RECORDS), BATCH)
    if container.max_payload_mb is not None:
        yield Setting(_REQUEST_SIZE, str(container.max_payload_mb * _MB or _NO_LIMIT_BYTES), MAX_PAYLOAD_MB)
