# SPDX-License-Identifier: Apache-2.0
"""What the log says of a request that failed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lmi.api.errors import EngineDeadError, LmiError, OverloadedError, RequestError
from lmi.serving.route import tell
from lmi.serving.streaming import Exchange


async def _nobody(*_: Any) -> Any:
    raise AssertionError("nothing is read or sent")


@pytest.mark.parametrize(
    ("error", "level", "line"),
    [
        (RequestError("request.invalid", "inputs='my secret' is wrong"), "INFO", "400 request.invalid"),
        (OverloadedError("queue.full", "9 requests wait"), "INFO", "429 queue.full"),
        (EngineDeadError("engine.died", "worker a/0\nexited"), "WARNING", "500 engine.died: worker a/0 exited."),
    ],
)
def test_it_has_one_line_with_its_id_and_only_what_the_server_did_in_words(
    error: LmiError, level: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange({"type": "http", "headers": [(b"x-request-id", b"a-1")]}, _nobody, _nobody)
    with caplog.at_level(logging.INFO):
        tell(exchange, error)
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (level, f"request a-1 failed: {line}")
