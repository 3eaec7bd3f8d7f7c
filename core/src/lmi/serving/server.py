# SPDX-License-Identifier: Apache-2.0
"""The server process: bind the port, decide, load, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from fastapi import FastAPI

from lmi.api.errors import LmiError, NotReadyError, PluginError, ProblemsError
from lmi.container import Container
from lmi.garbage import settle
from lmi.http_server import HttpServer
from lmi.loading import LoadPlan
from lmi.planning.estimates import memory_line
from lmi.plugins import Plugins
from lmi.reading import Start
from lmi.serving.address import Address, manages_here, socket_file, unbind
from lmi.serving.app import build_app, build_management_app
from lmi.serving.context import Context
from lmi.serving.digest import failure_digest
from lmi.serving.model_routes import management_routes, multi_model_routes
from lmi.serving.models import Model
from lmi.serving.progress import LoadProgress
from lmi.serving.registry import ModelRegistry, tokenizer_of
from lmi.serving.task_bodies import example_body
from lmi.serving.timeline import READY, in_words
from lmi.starting import ProgressOfModels, plan_all
from lmi.threads import in_own_thread
from lmi.workers.worker import CLOSE_S, Worker, WorkerState

_LOG = logging.getLogger(__name__)
_KEEP_ALIVE_S = 75
LOADING = "load model"
"""The stage in which the workers have theirs."""
_WATCH_INTERVAL_S = 1.0
_LAST_ANSWERS_S = 2.0
"""What clients get to read the end of their answers after the drain."""
_ENGINES_S = 4.0
"""What engines, and what they started, get to end after the drain: SageMaker kills 30 s after SIGTERM."""
_AT_ONCE_S = 1.0
"""The same for those that are told twice."""
_HANGS_S = 0.5
"""How much longer than all this the process may take to end by itself."""


class Server:
    """One server process.

    Args:
        start: what to serve.
        plugins: backends and extensions.
        listener: the bound socket.
        address: what it is bound to.
        drain_s: how long running requests may go on after SIGTERM.
        management: where models are managed, and the bound socket; None: nowhere, or at ``address``.
    """

    def __init__(
        self,
        start: Start,
        plugins: Plugins,
        listener: socket.socket,
        address: Address,
        *,
        drain_s: float = 25.0,
        management: tuple[Address, socket.socket] | None = None,
    ) -> None:
        self._start = start
        self._management = management
        self._listener = listener
        self._address = address
        self._socket_file = socket_file(address)
        self._managed_file = None if management is None else socket_file(management[0])
        self._url = address.url(listener)
        self._context = Context(plugins, start.server, Container.of(start.environ), start.server_settings)
        self._app = build_app(self._context)
        self._registry = ModelRegistry(
            self._context, start, self._app, drain_s=drain_s, on_progress=self._moved, on_failed=self._model_failed
        )
        self._progress = LoadProgress(sys.stderr)
        self._failure: LmiError | None = None
        self._failed_worker: Worker | None = None
        self._drain_s = drain_s
        self._is_draining = False
        self._end_by_s: float | None = None
        self._closing: asyncio.Task[None] | None = None
        if self._context.container.is_multi_model:
            self._app.include_router(multi_model_routes(self._context, self._registry))
        if manages_here(start.server):
            self._app.include_router(management_routes(self._context, self._registry))
        self._uvicorn = self._listening(self._app, address)
        self._managing: HttpServer | None = None
        if management is not None:
            app = build_management_app(self._context, management_routes(self._context, self._registry))
            self._managing = self._listening(app, management[0])

    def _listening(self, app: FastAPI, address: Address) -> HttpServer:
        return HttpServer(
            app,
            last_answers_s=round(self._drain_s + _LAST_ANSWERS_S),
            loop="uvloop",
            timeout_keep_alive=_KEEP_ALIVE_S,
            ssl_keyfile=address.private_key_file,
            ssl_certfile=address.certificate_file,
        )

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        import uvloop

        uvloop.run(self._serve())
        if self._failure is None:
            return 0
        is_hosted = self._context.container.is_sagemaker
        print(failure_digest(self._failure, self._failed_worker, is_hosted=is_hosted), file=sys.stderr, flush=True)
        return 2 if isinstance(self._failure, (ProblemsError, PluginError)) else 1

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        _LOG.info("listening on %s", self._url)
        tasks = [loop.create_task(self._load()), loop.create_task(self._watch())]
        if self._managing is not None and self._management is not None:
            management, listener = self._management
            _LOG.info("models are managed on %s", management.url(listener))
            tasks.append(loop.create_task(self._managing.serve(sockets=[listener])))
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._progress.close()
            await self._close()
            self._context.metrics.close()
            unbind(self._address, self._socket_file)
            if self._management is not None:
                unbind(self._management[0], self._managed_file)

    def _drain(self) -> None:
        """Take no new request, finish what runs, then exit; told a second time, exit at once."""
        if self._is_draining:
            self._end_after(_AT_ONCE_S)
            self._end_requests()
            for worker in [each for model in self._context.models.values() for each in model.pool.workers]:
                worker.kill()
            self._uvicorn.force_exit = True
            return
        self._is_draining = True
        self._registry.drain()
        self._end_after(self._drain_s + _ENGINES_S)
        _LOG.info("draining: running requests finish, new ones are refused")
        asyncio.get_running_loop().call_later(self._drain_s, self._end_requests)
        for model in self._context.models.values():
            model.drain()
        self._uvicorn.should_exit = True

    def _end_after(self, seconds: float) -> None:
        self._end_by_s = asyncio.get_running_loop().time() + seconds
        faulthandler.dump_traceback_later(seconds + _HANGS_S, exit=True)

    def _end_requests(self) -> None:
        for model in self._context.models.values():
            model.pool.fail_all(
                NotReadyError("model.draining", f"model {model.name!r} is shutting down", "Send it to another server")
            )
        _ = self._close()

    def _close(self) -> asyncio.Task[None]:
        """End the workers, in what is left of the time; asked a second time, the same."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close_models())
        return self._closing

    async def _close_models(self) -> None:
        left_s = CLOSE_S * 2 if self._end_by_s is None else self._end_by_s - asyncio.get_running_loop().time()
        within_s = max(0.0, min(CLOSE_S, left_s / 2))
        await asyncio.gather(*(model.pool.close(within_s) for model in self._context.models.values()))

    async def _load(self) -> None:
        context = self._context
        try:
            plans = await in_own_thread(partial(self._plans, self._fetching(asyncio.get_running_loop())))
            self._progress.close()
            for plan in plans:
                for warning in plan.warnings:
                    _LOG.warning("%s", warning)
                _LOG.info("model %r on backend %r: %s", plan.name, plan.info.name, plan.reason)
                if line := memory_line(plan.artifacts, plan.config, plan.info, plan.target):
                    _LOG.info("memory of model %r: %s", plan.name, line)
            context.stage = "load tokenizer"
            tokenizers = [await in_own_thread(partial(tokenizer_of, plan)) for plan in plans]
            for plan, tokenizer in zip(plans, tokenizers, strict=True):
                self._registry.add(plan, tokenizer)
                context.stage = LOADING
            if not plans:
                context.stage = READY
                settle()
                said = "POST /models loads one" if context.container.is_multi_model else "as load_models says"
                print(f"no model is loaded, {said}: {self._url}", flush=True)
        except LmiError as error:
            self._give_up(error, None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a panic of a library in Rust, too: nobody waits for a server that cannot start
            _LOG.exception("the start failed")
            self._give_up(LmiError("server.error", f"{type(error).__name__}: {error}"), None)

    def _plans(self, progress: ProgressOfModels) -> Sequence[LoadPlan]:
        """What the server starts with; reads configuration, finds, checks and fetches the models; in a thread."""
        return plan_all(self._start, self._context.plugins, progress)

    def _fetching(self, loop: asyncio.AbstractEventLoop) -> ProgressOfModels:
        """Shows what the thread that makes the plans is doing."""

        def show(name: str, stage: str, fraction: float | None) -> None:
            self._context.stage = stage
            self._progress.show(name, stage, fraction)

        def moved(model: str, stage: str, fraction: float | None = None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
                loop.call_soon_threadsafe(show, model, stage, fraction)

        return moved

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            for model in self._context.models.values():
                try:
                    model.pool.tend()
                except Exception:
                    _LOG.exception("the workers of model %r could not be looked after", model.name)
            try:
                self._context.metrics.sample()
            except Exception:
                _LOG.exception("metrics could not be noted")

    def _moved(self, model: Model, worker: Worker) -> None:
        if worker.state is not WorkerState.DEAD:
            self._progress.show(worker.label, worker.stage, worker.fraction)
        if all(each.state is not WorkerState.STARTING for each in model.pool.workers):
            self._progress.close()
        models = self._context.models.values()
        if self._context.stage != READY and all(each.answers for each in models):
            self._context.stage = READY
            settle()
            _LOG.info("%s", ready_line(self._context))
            for each in models:
                print(ready_text(each, self._url, is_only=len(models) == 1), flush=True)

    def _model_failed(self, model: Model, error: LmiError, worker: Worker) -> None:
        if self._context.stage != READY:
            self._give_up(error, worker)
        else:
            _LOG.error("model %r failed for good: %s", model.name, error)

    def _give_up(self, error: LmiError, worker: Worker | None) -> None:
        if not self._is_draining:  # otherwise it was told to stop, which is no failure
            self._failure, self._failed_worker = error, worker
            self._uvicorn.should_exit = True


def ready_line(context: Context) -> str:
    """How long the start took and what for: the server's own stages, then those of the worker that was last."""
    stages, total_s = context.timeline.stages, context.timeline.seconds
    starts = [each.history.slowest for each in context.models.values()]
    stages.pop(LOADING, None)
    for last in sorted(filter(None, starts), key=lambda each: each.began_s + each.seconds)[-1:]:
        stages |= last.stages
    return f"ready after {total_s:.1f} s: {in_words(stages)}"


def ready_text(model: Model, url: str, *, is_only: bool) -> str:
    """What a person reads when the model is ready: a command that works.

    Args:
        model: the one that is ready.
        url: of the server, ``unix:PATH`` for a unix socket.
        is_only: whether it is the server's only model, which requests need not name.
    """
    route = "/invocations" if is_only else f"/predictions/{quote(model.name, safe='')}"
    path = url.removeprefix("unix:")
    if path == url:
        where, call = f"{url}{route}", f"{url}{route}"
    else:
        where, call = f"{route} on {url}", f"--unix-socket {shlex.quote(path)} http://localhost{route}"
    body = json.dumps(example_body(model.plan.task, model.plan.artifacts))
    sent = f"-H 'content-type: application/json' -d '{body}'"
    if model.plan.is_custom:
        sent = "--data-binary @FILE"
    return f"model {model.name!r} is ready: {where}\ntry: curl -s {call} {sent}"
