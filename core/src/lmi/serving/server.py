# SPDX-License-Identifier: Apache-2.0
"""The server process: bind the port, decide, load, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from urllib.parse import quote

import uvicorn

from lmi.api.artifacts import ModelArtifacts
from lmi.api.backend import Task
from lmi.api.errors import LmiError, NotReadyError, PluginError, ProblemsError
from lmi.config.server import ServerOptions
from lmi.garbage import settle
from lmi.loading import LoadPlan
from lmi.planning.estimates import memory_line
from lmi.plugins import Plugins
from lmi.serving.address import Address, socket_file, unbind
from lmi.serving.app import build_app
from lmi.serving.context import READY, Context
from lmi.serving.models import Model
from lmi.serving.progress import LoadProgress
from lmi.serving.task_bodies import example_body
from lmi.serving.tokenizer import Tokenizer, load_tokenizer
from lmi.serving.whole_requests import unheard_hooks
from lmi.starting import ProgressOfModels
from lmi.threads import in_own_thread
from lmi.workers.worker import Worker, WorkerState

_LOG = logging.getLogger(__name__)
_KEEP_ALIVE_S = 75
_WATCH_INTERVAL_S = 1.0
_LAST_ANSWERS_S = 2.0
"""What clients get to read the end of their answers after the drain."""


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handling: LMI drains its models first and exits with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One server process.

    Args:
        make_plans: decides what to serve (reads configuration, finds and checks the models); runs in a thread.
        plugins: backends and extensions.
        listener: the bound socket.
        address: what it is bound to.
        drain_s: how long running requests may go on after SIGTERM.
        options: what holds for all models.
    """

    def __init__(
        self,
        make_plans: Callable[[ProgressOfModels], Sequence[LoadPlan]],
        plugins: Plugins,
        listener: socket.socket,
        address: Address,
        *,
        drain_s: float = 25.0,
        options: ServerOptions | None = None,
    ) -> None:
        self._make_plans = make_plans
        self._listener = listener
        self._address = address
        self._socket_file = socket_file(address)
        self._url = address.url(listener)
        self._context = Context(plugins, options)
        self._app = build_app(self._context)
        self._progress = LoadProgress(sys.stderr)
        self._failure: LmiError | None = None
        self._failed_worker: Worker | None = None
        self._drain_s = drain_s
        self._is_draining = False
        config = uvicorn.Config(
            self._app,
            http="httptools",
            loop="uvloop",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(drain_s + _LAST_ANSWERS_S),
            ssl_keyfile=address.private_key_file,
            ssl_certfile=address.certificate_file,
        )
        self._uvicorn = _Uvicorn(config)

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        import uvloop

        uvloop.run(self._serve())
        if self._failure is None:
            return 0
        print(failure_digest(self._failure, self._failed_worker), file=sys.stderr, flush=True)
        return 2 if isinstance(self._failure, (ProblemsError, PluginError)) else 1

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        _LOG.info("listening on %s", self._url)
        tasks = [loop.create_task(self._load()), loop.create_task(self._watch())]
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._progress.close()
            await asyncio.gather(*(model.pool.close() for model in self._context.models.values()))
            unbind(self._address, self._socket_file)

    def _drain(self) -> None:
        """Take no new request, finish what runs, then exit; told a second time, exit at once."""
        if self._is_draining:
            self._end_requests()
            self._uvicorn.force_exit = True
            return
        self._is_draining = True
        _LOG.info("draining: running requests finish, new ones are refused")
        asyncio.get_running_loop().call_later(self._drain_s, self._end_requests)
        for model in self._context.models.values():
            model.is_draining = True
        self._uvicorn.should_exit = True

    def _end_requests(self) -> None:
        for model in self._context.models.values():
            model.pool.fail_all(
                NotReadyError("model.draining", f"model {model.name!r} is shutting down", "Send it to another server")
            )

    async def _load(self) -> None:
        context = self._context
        try:
            plans = await in_own_thread(partial(self._make_plans, self._fetching(asyncio.get_running_loop())))
            self._progress.close()
            for plan in plans:
                for warning in plan.warnings:
                    _LOG.warning("%s", warning)
                _LOG.info("model %r on backend %r: %s", plan.name, plan.info.name, plan.reason)
                if line := memory_line(plan.artifacts, plan.config, plan.info, plan.target):
                    _LOG.info("memory of model %r: %s", plan.name, line)
            context.stage = "load tokenizer"
            tokenizers = [await in_own_thread(partial(_tokenizer_of, plan)) for plan in plans]
            for plan, tokenizer in zip(plans, tokenizers, strict=True):
                self._start_model(plan, tokenizer)
            if not plans:
                context.stage = READY
                print(f"no model is loaded, as load_models says: {self._url}", flush=True)
        except LmiError as error:
            self._give_up(error, None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a panic of a library in Rust, too: nobody waits for a server that cannot start
            _LOG.exception("the start failed")
            self._give_up(LmiError("server.error", f"{type(error).__name__}: {error}"), None)

    def _fetching(self, loop: asyncio.AbstractEventLoop) -> ProgressOfModels:
        """Shows what the thread that makes the plans is doing."""

        def show(name: str, stage: str, fraction: float | None) -> None:
            self._context.stage = stage
            self._progress.show(name, stage, fraction)

        def moved(model: str, stage: str, fraction: float | None = None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
                loop.call_soon_threadsafe(show, model, stage, fraction)

        return moved

    def _start_model(self, plan: LoadPlan, tokenizer: Tokenizer) -> None:
        context, own = self._context, plan.extension
        if plan.is_custom:
            for warning in unheard_hooks(context):
                _LOG.warning("%s", warning)
        elif plan.task is not Task.GENERATE:
            for warning in unheard_hooks(context, f"model {plan.name!r}: it {plan.task.does}"):
                _LOG.warning("%s", warning)
        # A model's own filters come first: those of the operator's extensions have the last word.
        model = Model(
            plan,
            tokenizer,
            backends=context.plugins.backends,
            request_filters=[*(own.request_filters if own else ()), *context.request_filters],
            text_filters=[*(own.text_filters if own else ()), *context.text_filters],
            on_progress=self._moved,
            on_failed=self._model_failed,
        )
        context.models[plan.name] = model
        if own is not None:
            own.register_routes(self._app, context)
        context.stage = "load model"
        model.pool.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            for model in self._context.models.values():
                try:
                    model.pool.tend()
                except Exception:
                    _LOG.exception("the workers of model %r could not be looked after", model.name)

    def _moved(self, model: Model, worker: Worker) -> None:
        if worker.state is not WorkerState.DEAD:
            self._progress.show(worker.label, worker.stage, worker.fraction)
        if all(each.state is not WorkerState.STARTING for each in model.pool.workers):
            self._progress.close()
        models = self._context.models.values()
        if self._context.stage != READY and all(each.answers for each in models):
            self._context.stage = READY
            settle()
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


def _tokenizer_of(plan: LoadPlan) -> Tokenizer:
    return load_tokenizer(
        ModelArtifacts() if plan.serves_whole_requests else plan.artifacts,  # those are not read here
        trust_remote_code=plan.config.trust_remote_code,
        python_executable=plan.options.python_executable or sys.executable,
    )


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


def failure_digest(error: LmiError, worker: Worker | None) -> str:
    """The last lines of a start that failed: cause, evidence, remedy."""
    lines = ["", "LMI could not start", f"  cause:    {error.without_hint()}"]
    if worker is not None and worker.exit is not None:
        lines.append(f"  evidence: worker {worker.label} {worker.reason}, in stage {worker.stage!r}; its last lines:")
        lines += [f"            {line}" for line in worker.exit.last_lines]
    remedy = error.hint or ("Read the worker's lines above" if worker is not None else "")
    if remedy:
        lines.append(f"  remedy:   {remedy}")
    return "\n".join(lines)
