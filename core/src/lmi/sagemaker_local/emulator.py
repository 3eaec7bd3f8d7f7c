# SPDX-License-Identifier: Apache-2.0
"""The emulator's process: containers are started, watched and stopped while clients call."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette

from lmi.http_server import HttpServer
from lmi.sagemaker_local.asynchronous import Asynchronous
from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.endpoint import Endpoint

_LOG = logging.getLogger(__name__)
_LAST_ANSWERS_S = 2


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
        self._uvicorn = HttpServer(app, last_answers_s=_LAST_ANSWERS_S)

    async def run(self) -> bool:
        """Serve until told to stop, or until every endpoint has failed; whether they all have."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        _LOG.info("listening on %s", self._url)
        names = ", ".join(self._endpoints)
        _LOG.info("for clients: AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=%s and EndpointName=%s", self._url, names)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(self._stop.wait())
        lives = asyncio.gather(*(copy.run() for copy in self._copies()))
        try:
            waits: set[asyncio.Future[Any]] = {serving, lives, stopping}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not lives.done():
                return False
            lives.result()  # a life that ended by a fault of ours is told
            return True
        finally:
            stopping.cancel()
            # No ping is sent any more; running requests may go on until their container ends.
            lives.cancel()
            await asyncio.gather(lives, stopping, return_exceptions=True)
            await self._end(serving)

    async def _end(self, serving: asyncio.Task[None]) -> None:
        for endpoint in self._endpoints.values():
            endpoint.is_deleting = True
        await asyncio.gather(*(copy.stop() for copy in self._copies()))
        await self._asynchronous.close()
        self._uvicorn.should_exit = True
        await serving

    def _copies(self) -> list[Container]:
        return [copy for endpoint in self._endpoints.values() for copy in endpoint.copies]

    def _told_to_stop(self) -> None:
        """Stop the containers, then end; told a second time, kill them."""
        if self._is_stopping:
            for copy in self._copies():
                copy.kill()
            return
        self._is_stopping = True
        _LOG.info("stopping: the containers get SIGTERM")
        self._stop.set()
