# SPDX-License-Identifier: Apache-2.0
"""A server that has one client, this process, and ends when its lines are answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmi.api.errors import ConfigError, LmiError, RequestError
from lmi.client import Answer, Connection, Target, error_of
from lmi.loading import LoadPlan
from lmi.offline.prompts import Prompt
from lmi.offline.work import Work
from lmi.plugins import Plugins
from lmi.reading import Start
from lmi.serving.address import Address, bind
from lmi.serving.models import Model
from lmi.serving.server import Server
from lmi.serving.timeline import READY
from lmi.starting import ProgressOfModels
from lmi.workers.sockets import folder_of_sockets
from lmi.workers.worker import Worker

_AGAIN_AFTER_S = 1.0
_ERROR_STATUS = 400
_SERVER_ERROR = 500
_AGAIN = "retry-after"
"""Header of the refusals that hold for a moment; a status alone tells no loading model from an answer with 503."""


class OfflineServer(Server):
    """Loads a model as ``lmi serve`` does and asks it line by line, over a unix socket that only this user can open.

    So whatever a line asks for means what it means in a request: schemas, chat templates, parameters, extensions.

    Args:
        start: what to serve: one model.
        plugins: backends and extensions.
        work: what to ask.
        drain_s: how long lines that are being answered may go on after Ctrl-C or SIGTERM.
    """

    def __init__(self, start: Start, plugins: Plugins, work: Work, *, drain_s: float) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="lmi-generate-", dir=folder_of_sockets())
        address = Address(path=str(Path(self._temporary.name) / "socket"), source="lmi generate")
        quiet = start.server.model_copy(update={"metrics_log": "none"})  # answers may go where metrics would
        super().__init__(replace(start, server=quiet), plugins, bind(address), address, drain_s=drain_s)
        self._target = Target(socket_path=address.path)
        self._work = work
        self._n_done = 0
        self._is_ready = asyncio.Event()
        self.broken: LmiError | None = None
        """Why the model failed for good, after it had been ready."""

    def _plans(self, progress: ProgressOfModels) -> list[LoadPlan]:
        return [_only(super()._plans(progress))]

    async def _serve(self) -> None:
        asking = asyncio.create_task(self._ask_all())
        with self._temporary:
            try:
                await super()._serve()
            finally:
                if not self._is_ready.is_set():
                    asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking

    def _moved(self, model: Model, worker: Worker) -> None:
        with contextlib.redirect_stdout(None):  # it says where to send requests
            super()._moved(model, worker)
        if self._context.stage == READY:
            self._is_ready.set()

    def _model_failed(self, model: Model, error: LmiError, worker: Worker) -> None:
        super()._model_failed(model, error, worker)
        if self._context.stage == READY:
            self.broken = error
            self._uvicorn.should_exit = True

    def _stops(self) -> bool:
        return self._is_draining or self._uvicorn.should_exit

    # -------------------------------------------------------------------------------------------------------- asking

    async def _ask_all(self) -> None:
        await self._is_ready.wait()
        [model] = self._context.models.values()
        n_at_once = self._work.n_at_once or _batch_size_of(model)
        try:
            self._show()
            clients = (self._client() for _ in range(min(n_at_once, self._work.n_prompts)))
            await asyncio.gather(*clients)
        finally:
            self._uvicorn.should_exit = True

    async def _client(self) -> None:
        """Ask for one line after the other, until there is none left or nobody to be asked."""
        connection = Connection(self._target)
        try:
            while not self._stops():
                prompt = next(self._work.prompts, None)
                if prompt is None:
                    return
                await self._answer(prompt, connection)
        finally:
            connection.close()

    async def _answer(self, prompt: Prompt, connection: Connection) -> None:
        records, named = self._work.records, None
        try:
            named, body = prompt.request()
            answer = await self._until_taken(connection, body)
        except RequestError as error:
            records.add(prompt, named, error={"code": error.code, "message": str(error), "status": 400})
        else:
            if answer is None:
                return
            records.add(prompt, named, **_outcome(answer))
        self._n_done += 1
        self._show()

    async def _until_taken(self, connection: Connection, body: bytes) -> Answer | None:
        """The answer; None where the server ends before there is one."""
        while not self._stops():
            try:
                answer = await connection.ask("POST", "/invocations", body)
            except OSError:
                if not self._stops():
                    raise
                return None
            # What fails while the server ends may have failed for that: another run asks again.
            if self._stops() and answer.status >= _SERVER_ERROR:
                return None
            if answer.status < _ERROR_STATUS or _AGAIN not in answer.headers:
                return answer
            await asyncio.sleep(_AGAIN_AFTER_S)
        return None

    def _show(self) -> None:
        n_prompts = self._work.n_prompts
        # On a terminal the text is drawn again; in a log each new one would be a line.
        stage = f"{self._n_done} of {n_prompts}" if sys.stderr.isatty() else "answered"
        self._progress.show("lines", stage, self._n_done / n_prompts)


def _only(plans: Sequence[LoadPlan]) -> LoadPlan:
    if len(plans) != 1:
        names = ", ".join(plan.name for plan in plans) or "none"
        raise ConfigError(
            "generate.not-one-model", f"{len(plans)} models are to be loaded ({names})", (), "Name one MODEL"
        )
    return plans[0]


def _batch_size_of(model: Model) -> int:
    limits = model.pool.limits
    n_copies = max(1, len(model.pool.workers))
    # One more a copy is on its way while the others are computed.
    return 1 if limits is None else n_copies * (limits.max_batch_size + 1)


def _outcome(answer: Answer) -> dict[str, Any]:
    if answer.status >= _ERROR_STATUS:
        code, message = error_of(answer.body, answer.status)
        return {"error": {"code": code, "message": message, "status": answer.status}}
    text = answer.body.decode(errors="replace")
    try:
        return {"answer": json.loads(text)}
    except ValueError:
        pass
    try:  # output_formatter=jsonlines answers with a line a token
        return {"answer": [json.loads(line) for line in text.splitlines()]}
    except ValueError:
        return {"answer": text}  # a model's own function answers with what it likes
