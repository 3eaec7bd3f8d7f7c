# SPDX-License-Identifier: Apache-2.0
"""How long a request may take: what its caller says, what the model's options say, and what SageMaker waits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lmi.api.errors import RequestError
from lmi.config.options import ModelOptions
from lmi.container import Container
from lmi.sagemaker_limits import INVOCATION_S, STREAM_S
from lmi.serving.attributes import HEADER, attribute

ATTRIBUTE = "deadline_s"
"""What a caller says it with, among the custom attributes of SageMaker."""

_LONGEST_S = 86_400.0
_TO_ARRIVE_S = 2.0
"""Left for what was made to reach the platform before it stops waiting."""
_API = "x-amzn-sagemaker-forwarded-api"
_WHOLE_API = "InvokeEndpoint"


def deadline_s(
    options: ModelOptions, container: Container, headers: Mapping[str, str], *, is_stream: bool = False
) -> float | None:
    """Seconds that a request may take; None for as long as it likes.

    The caller's number holds up to that of the options; where neither says anything, what SageMaker waits does, less
    what the answer takes on its way.

    Args:
        options: of the model.
        container: what runs this server.
        headers: of the request, names in lower case.
        is_stream: whether its caller reads tokens as they come.
    Raises:
        RequestError: the caller's number is none.
    """
    limits = [each for each in (options.deadline_s, options.predict_timeout) if each is not None]
    if text := attribute(headers, ATTRIBUTE):
        return min([_seconds(text), *limits])
    if limits:
        return min(limits)
    if not container.has_deadlines:
        return None
    return (STREAM_S if is_stream and headers.get(_API) != _WHOLE_API else INVOCATION_S) - _TO_ARRIVE_S


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LONGEST_S:
        raise RequestError(
            "request.invalid", f"{ATTRIBUTE}={text[:40]} in {HEADER} is no number of seconds up to {_LONGEST_S:g}",
            "Leave it out, or give the seconds that the caller waits",
        )  # fmt: skip
    return value
