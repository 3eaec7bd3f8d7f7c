# SPDX-License-Identifier: Apache-2.0
"""A model that answers in the test's own process: requests go straight to an engine, without workers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import (
    STEPPER_CAPABILITIES,
    Engine,
    EngineLimits,
    FinishReason,
    LmiError,
    OverloadedError,
    SamplingParams,
    Stepper,
    TextRequest,
)
from lmi.config.model_entries import ModelEntry
from lmi.loading import LoadPlan, plan
from lmi.plugins import Plugins
from lmi.scheduling.engine import StepperEngine
from lmi.serving.models import Model
from lmi.serving.tokenizer import ByteTokenizer
from lmi.workers.flight import Flight
from tests.limits import limit_s
from tests.steppers import ToyStepper, toy_limits

N_IDS = 256


class EnginePool:
    """Gives flights to an engine of this process, and keeps what was given and what was cancelled."""

    def __init__(self, engine: Engine, n_room: int) -> None:
        self.engine = engine
        self.limits: EngineLimits = engine.limits
        self.groups: list[list[Flight]] = []
        self.are_admitted: list[bool] = []
        self.cancelled: list[str] = []
        self.n_room = n_room
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check_room(self, n_requests: int) -> None:
        if n_requests > self.n_room:
            raise OverloadedError("queue.full", f"there is room for {self.n_room}")

    def submit(self, flights: list[Flight], *, is_admitted: bool = False) -> None:
        self.check_room(0 if is_admitted else len(flights))
        self.groups.append(flights)
        self.are_admitted.append(is_admitted)
        for flight in flights:
            self._tasks[flight.request.request_id] = asyncio.ensure_future(self._run(flight))
            if flight.request.deadline_s is not None:
                asyncio.get_running_loop().call_later(flight.request.deadline_s, self._expire, flight)

    def cancel(self, flight: Flight) -> None:
        task = self._tasks.get(flight.request.request_id)
        if task is not None and not task.done():
            self.cancelled.append(flight.request.request_id)
            task.cancel()

    def _expire(self, flight: Flight) -> None:
        task = self._tasks[flight.request.request_id]
        if not task.done():
            task.cancel()
            flight.end(FinishReason.DEADLINE)

    @property
    def n_running(self) -> int:
        return sum(not task.done() for task in self._tasks.values())

    async def _run(self, flight: Flight) -> None:
        try:
            async for chunk in self.engine.generate(flight.request):
                flight.on_chunk(chunk)
        except LmiError as error:
            flight.on_error(error)


class Rig:
    """A model and the pool that its requests go to."""

    def __init__(self, model: Model, pool: EnginePool) -> None:
        self.model: Any = model
        self.pool = pool

    def request(self, prompt: str = "Once", *, sampling: SamplingParams | None = None, **fields: Any) -> TextRequest:
        sampling = sampling or SamplingParams(max_tokens=8)
        return TextRequest(request_id="r", model="model", prompt=prompt, sampling=sampling, **fields)


@lru_cache
def plan_of_echo() -> LoadPlan:
    found = Plugins.discover({})
    return plan(ModelEntry(), flags={"rolling_batch": "echo"}, environ={}, plugins=found, default_folder=Path("/none"))


def play(
    scenario: Callable[[Rig], Awaitable[Any]],
    *,
    stepper: Stepper | None = None,
    eos_token_ids: tuple[int, ...] = (),
    n_room: int = 1000,
    predict_timeout: float | None = None,
    **changes: Any,
) -> Any:
    """Run a scenario with a model whose every id is a byte; ``changes`` are further arguments of Model."""

    async def main() -> Any:
        made = plan_of_echo()
        made = dataclasses.replace(
            made,
            info=dataclasses.replace(made.info, capabilities=STEPPER_CAPABILITIES),
            artifacts=msgspec.structs.replace(made.artifacts, eos_token_ids=eos_token_ids),
            options=made.options.model_copy(update={"predict_timeout": predict_timeout}),
        )
        engine = StepperEngine(stepper or ToyStepper(toy_limits(vocab_size=N_IDS)), eos_token_ids)
        pool = EnginePool(engine, n_room)
        model: Any = Model(made, ByteTokenizer(), **changes)
        model.pool = pool
        try:
            return await asyncio.wait_for(scenario(Rig(model, pool)), limit_s(60))
        finally:
            await engine.close()

    return asyncio.run(main())
