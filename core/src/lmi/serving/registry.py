# SPDX-License-Identifier: Apache-2.0
"""The models of a server: those that it starts with, and those that come and go while it runs."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from lmi.api.artifacts import ModelArtifacts
from lmi.api.backend import Task
from lmi.api.errors import (
    ExistsError,
    LmiError,
    NotReadyError,
    OutOfMemoryError,
    ProblemsError,
    RequestError,
    Severity,
)
from lmi.config.model_entries import ModelEntry
from lmi.garbage import settle
from lmi.loading import LoadPlan
from lmi.reading import check_urls
from lmi.room import refuse_without_room
from lmi.serving.models import Model
from lmi.serving.timeline import READY, Timeline, in_words
from lmi.serving.tokenizer import Tokenizer, load_tokenizer
from lmi.serving.whole_requests import unheard_hooks
from lmi.starting import plan_all
from lmi.threads import in_own_thread

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lmi.reading import Start
    from lmi.serving.context import Context
    from lmi.workers.worker import Worker

_LOG = logging.getLogger(__name__)
_LOOK_INTERVAL_S = 0.05
_OF_MEMORY = "memory."
"""What codes of problems begin with that another machine would not have."""


class ModelRegistry:
    """The server's models.

    Args:
        context: where requests find them.
        start: what holds for each of them.
        app: gets the routes of a model's own file.
        drain_s: how long requests of a model that is unloaded may go on.
        on_progress: called when a load moved on, with the worker that did.
        on_failed: called when a model is given up that was ready, or that the server starts with.
    """

    def __init__(
        self,
        context: Context,
        start: Start,
        app: FastAPI,
        *,
        drain_s: float,
        on_progress: Callable[[Model, Worker], None],
        on_failed: Callable[[Model, LmiError, Worker], None],
    ) -> None:
        self._context, self._start, self._app, self._drain_s = context, start, app, drain_s
        self._on_progress, self._on_failed = on_progress, on_failed
        self._coming: dict[str, LoadPlan | None] = {}
        self._loaded: dict[str, asyncio.Future[None]] = {}
        self._going: dict[str, asyncio.Task[None]] = {}
        self._loads: set[asyncio.Task[Model]] = set()
        self._is_draining = False

    def add(self, plan: LoadPlan, tokenizer: Tokenizer, *, is_late: bool = False) -> Model:
        """Start the workers of a model; requests find it from now on.

        Args:
            plan, tokenizer: of the model.
            is_late: it comes to a server that answers already.
        """
        context, own = self._context, plan.extension
        for warning in _unheard(plan, context):
            _LOG.warning("%s", warning)
        # A model's own filters come first: those of the operator's extensions have the last word.
        model = Model(
            plan,
            tokenizer,
            backends=context.plugins.backends,
            container=context.container,
            request_filters=[*(own.request_filters if own else ()), *context.request_filters],
            text_filters=[*(own.text_filters if own else ()), *context.text_filters],
            on_progress=self._moved,
            on_failed=self._failed,
        )
        model.is_late = is_late
        context.models[plan.name] = model
        if own is not None:
            before = set(map(id, self._app.router.routes))
            try:
                own.register_routes(self._app, context)
            finally:
                model.routes = [route for route in self._app.router.routes if id(route) not in before]
        model.pool.fill()
        return model

    async def load(self, entry: ModelEntry) -> Model:
        """Load a model while the server runs; requests may name it when this returns.

        Args:
            entry: where it is, its name, and what was said of it alone.
        Raises:
            ExistsError: the name is taken.
            OutOfMemoryError: there is no room for it beside the others.
            RequestError: it cannot be loaded as it is.
            NotReadyError: it was unloaded before it was ready, or the server shuts down.
            EngineLoadError, EngineDeadError, PluginError: its engine does not start.
        """
        self._refuse_draining()
        self.refuse_taken(entry.name)
        self._coming[entry.name] = None
        task = asyncio.get_running_loop().create_task(self._load(entry))
        self._loads.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            self._refuse_draining()
            raise
        except ProblemsError as error:
            raise _refusal(error) from error
        finally:
            self._loads.discard(task)
            del self._coming[entry.name]

    def drain(self) -> None:
        """Load no further model; nobody waits any more for those that are being loaded."""
        self._is_draining = True
        for task in self._loads:
            task.cancel()

    def refuse_taken(self, name: str) -> None:
        """Refuse a name that a model has, or one that is being loaded.

        Raises:
            ExistsError: it is taken.
        """
        if name in self._context.models or name in self._coming:
            message = f"there is a model {name!r} already"
            raise ExistsError("model.exists", message, "Take another name, or unload it first (DELETE)")

    def _refuse_draining(self) -> None:
        if self._is_draining:
            raise NotReadyError("server.draining", "this server is shutting down", "Load it into another one")

    async def _load(self, entry: ModelEntry) -> Model:
        start = dataclasses.replace(self._start, entries=(entry,))
        check_urls(start.entries, start.server, start.server_settings)
        timeline = Timeline("check configuration")
        progress = partial(_entered, timeline)
        [plan] = await in_own_thread(partial(plan_all, start, self._context.plugins, progress))
        for warning in plan.warnings:
            _LOG.warning("%s", warning)
        _LOG.info("model %r on backend %r: %s", plan.name, plan.info.name, plan.reason)
        before = [each for each in self._coming.values() if each is not None]
        self._coming[entry.name] = plan
        await in_own_thread(partial(refuse_without_room, plan, before))  # a driver may take seconds to answer
        timeline.enter("load tokenizer")
        tokenizer = await in_own_thread(partial(tokenizer_of, plan))
        loaded = self._loaded[entry.name] = asyncio.get_running_loop().create_future()
        try:
            model = self.add(plan, tokenizer, is_late=True)
            model.timeline = timeline
            timeline.enter(READY)
            await loaded
        except LmiError:
            if (left := self._context.models.get(entry.name)) is not None:
                await asyncio.shield(self._removal(left))
            raise
        finally:
            del self._loaded[entry.name]
        settle()
        worker = model.history.slowest
        seconds = time.time() - timeline.began_s
        stages = {**timeline.stages, **(worker.stages if worker is not None else {})}
        _LOG.info("model %r was loaded in %.1f s: %s", entry.name, seconds, in_words(stages))
        return model

    async def unload(self, name: str, version: str | None = None) -> None:
        """Refuse new requests for a model, wait for those that run, and end its workers; others may wait for the same.

        Raises:
            NotFoundError: there is none of that name.
        """
        model = self._context.model(name, version)
        model.drain()
        loaded = self._loaded.get(name)
        if loaded is not None and not loaded.done():
            message = f"model {name!r} was unloaded before it was ready"
            loaded.set_exception(NotReadyError("model.unloaded", message, "Load it again"))
        await asyncio.shield(self._removal(model))  # it goes on when the one who asked for it has left

    def _removal(self, model: Model) -> asyncio.Task[None]:
        """Begin to remove a model, or go on with it."""
        if model.name not in self._going:
            self._going[model.name] = task = asyncio.get_running_loop().create_task(self._unload(model))
            task.add_done_callback(lambda _: self._going.pop(model.name))
        return self._going[model.name]

    async def _unload(self, model: Model) -> None:
        end_s = time.monotonic() + self._drain_s
        # A request ends, dies, waits and resumes in many places; looking now and then needs to know none of them.
        while model.pool.n_requests and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL_S)
        try:
            await model.pool.close()
        finally:
            del self._context.models[model.name]
            routes = self._app.router.routes
            routes[:] = [route for route in routes if not any(route is each for each in model.routes)]
        settle()
        _LOG.info("model %r was unloaded", model.name)

    def _moved(self, model: Model, worker: Worker) -> None:
        loaded = self._loaded.get(model.name)
        if loaded is not None and not loaded.done() and model.answers:
            loaded.set_result(None)
        self._on_progress(model, worker)

    def _failed(self, model: Model, error: LmiError, worker: Worker) -> None:
        loaded = self._loaded.get(model.name)
        if loaded is None:
            self._on_failed(model, error, worker)
        elif not loaded.done():
            loaded.set_exception(error)


def tokenizer_of(plan: LoadPlan) -> Tokenizer:
    """The tokenizer of a plan's model; blocking."""
    return load_tokenizer(
        ModelArtifacts() if plan.serves_whole_requests else plan.artifacts,  # those are not read here
        trust_remote_code=plan.config.trust_remote_code,
        python_executable=plan.options.python_executable or sys.executable,
    )


def _entered(timeline: Timeline, model: str, stage: str, fraction: float | None = None) -> None:
    timeline.enter(stage)


def _unheard(plan: LoadPlan, context: Context) -> list[str]:
    if plan.is_custom:
        return [str(each) for each in unheard_hooks(context)]
    if plan.task is not Task.GENERATE:
        return [str(each) for each in unheard_hooks(context, f"model {plan.name!r}: it {plan.task.does}")]
    return []


def _refusal(error: ProblemsError) -> LmiError:
    """What a caller is told whose model cannot be loaded: all of it, and whether other models are in its way."""
    codes = [problem.code for problem in error.problems if problem.severity is Severity.ERROR]
    text = error.without_hint().removeprefix(f"{error.code}: ")
    if codes and all(code.startswith(_OF_MEMORY) for code in codes):
        return OutOfMemoryError("model.no-room", text, error.hint)
    return RequestError(error.code, text, error.hint)
