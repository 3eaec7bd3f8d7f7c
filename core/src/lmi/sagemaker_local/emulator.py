# SPDX-License-Identifier: Apache-2.0
"""The emulator's process: containers are started, watched and stopped while clients call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Mapping

import uvicorn
from starlette.applications import Starlette

from lmi.sagemaker_local.asynchronous import Asynchronous
from lmi.sagemaker_local.endpoint import Endpoint

_LOG = logging.getLogger(__name__)
_LAST_ANSWERS_S = 2


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handling: containers are stopped before it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Emulator:
    """One run.

    Args:
        endpoints: name -> endpoint, with its copies.
        asynchronous: the queues of asynchronous calls.
        app: what clients see.
        listener: the bound socket.
        url: that clients call.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        asynchronous: Asynchronous,
        app: Starlette,
        listener: socket.socket,
        url: str,
    ) -> None:
        self._endpoints, self._asynchronous = endpoints, asynchronous
        self._listener, self._url = listener, url
        self._is_stopping = False
        self._stop = asyncio.Event()
        self._uvicorn = _Uvicorn(
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
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
            )
        )

    async def run(self) -> bool:
        """Serve until told to stop, or until every endpoint has failed; whether they all have."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        _LOG.info("listening on %s", self._url)
        copies = [copy for endpoint in self._endpoints.values() for copy in endpoint.copies]
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        lives = [asyncio.create_task(copy.run()) for copy in copies]
        stopping = asyncio.create_task(self._stop.wait())
        all_over = asyncio.create_task(_all_over(lives))
        await asyncio.wait({serving, all_over, stopping}, return_when=asyncio.FIRST_COMPLETED)
        have_failed = all_over.done()
        for endpoint in self._endpoints.values():
            endpoint.is_deleting = True
        # No ping is sent any more; running requests may go on until their container ends.
        for task in (*lives, stopping, all_over):
            task.cancel()
        await asyncio.gather(*lives, stopping, all_over, return_exceptions=True)
        await asyncio.gather(*(copy.stop() for copy in copies))
        await self._asynchronous.close()
        self._uvicorn.should_exit = True
        await serving
        return have_failed

    def _told_to_stop(self) -> None:
        """Stop the containers, then end; told a second time, kill them."""
        if self._is_stopping:
            for endpoint in self._endpoints.values():
                for copy in endpoint.copies:
                    copy.kill()
            return
        self._is_stopping = True
        _LOG.info("stopping: the containers get SIGTERM")
        self._stop.set()


async def _all_over(lives: list[asyncio.Task[None]]) -> None:
    """Wait until no container can be healthy any more."""
    await asyncio.gather(*lives)
