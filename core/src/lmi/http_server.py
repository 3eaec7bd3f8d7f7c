# SPDX-License-Identifier: Apache-2.0
"""The HTTP server under an application of LMI's, which stops when its owner says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """Uvicorn without its signal handling: its owner has other things to end first.

    Args:
        app: what answers.
        last_answers_s: how long answers may go on once it is told to stop.
        more: further settings of uvicorn's.
    """

    def __init__(self, app: ASGIApp, *, last_answers_s: int, **more: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=last_answers_s,
                **more,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
