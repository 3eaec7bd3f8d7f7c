# SPDX-License-Identifier: Apache-2.0
"""L: how an engine starts, ends and dies."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Awaitable
from typing import TypeVar

from lmi.api import EngineDeadError, StepBatch, StepOutput, Stepper
from lmi.testing.kit import Kit
from lmi.testing.live import TIME_SCALE, Answer, LiveEngine
from lmi.testing.remote import RemoteEngine
from lmi.testing.rules import StalledError, rule

DEATH_IS_KNOWN_WITHIN_S = 5.0
CLOSED_WITHIN_S = 30.0

_T = TypeVar("_T")


class LifeRules:
    """Rules L1 to L5."""

    @rule("L1", "closing an engine twice is fine")
    def test_l1_close_twice(self, kit: Kit) -> None:
        with kit.fresh() as engine:
            engine.answer(kit.request(kit.prompt(0), 2))
            engine.call(engine.engine.close, CLOSED_WITHIN_S)

    @rule("L2", "a closed engine refuses requests")
    def test_l2_generate_after_close(self, kit: Kit) -> None:
        with kit.fresh() as engine:
            engine.call(engine.engine.close, CLOSED_WITHIN_S)
            error = engine.answers([kit.request(kit.prompt(0), 2)], DEATH_IS_KNOWN_WITHIN_S)[0].error
        assert error is not None, "a closed engine served a request"
        assert isinstance(error, EngineDeadError), (
            f"a closed engine raised {type(error).__name__}: {error}; callers understand EngineDeadError"
        )

    @rule("L3", "when an engine dies, its health, every open stream and every new request say so within 5 s")
    def test_l3_death(self, kit: Kit) -> None:
        with kit.fresh() as engine:
            requests = [kit.request(kit.prompt(number), engine.long_tokens) for number in range(min(2, engine.n_slots))]

            async def scenario() -> tuple[list[Answer], Exception | None, Answer]:
                generators = engine.start(requests)
                for generator in generators:
                    await generator.__anext__()
                await _kill(kit, engine)
                answers = await _within(engine.read(generators), "open streams of a dead engine did not end")
                illness = await _within(_illness(engine), "check_health of a dead engine did not answer")
                after = await _within(engine.gather([kit.request(kit.prompt(2), 2)]), "a request to it never ended")
                return answers, illness, after[0]

            answers, illness, after = engine.call(scenario, 4 * DEATH_IS_KNOWN_WITHIN_S + 10)
        for answer in answers:
            assert answer.finish is None, (
                f"a stream of {len(answer.ids)} ids had finished before its engine could be killed: take a model or "
                "option with a longer context for the case"
            )
            assert isinstance(answer.error, EngineDeadError), (
                f"an open stream of a dead engine ended with {answer.error!r}, not EngineDeadError"
            )
        assert illness is not None, "check_health finds nothing wrong with a dead engine"
        assert isinstance(after.error, EngineDeadError), f"a dead engine answered a request with {after.error!r}"

    @rule("L4", "loading reports its stages, and fractions that only grow within one")
    def test_l4_progress(self, kit: Kit) -> None:
        stages = kit.engine.stages
        assert stages, "lmi_load_engine never called progress: a user would watch a silent start"
        for stage, reports in itertools.groupby(stages, key=lambda report: report[0]):
            fractions = [fraction for _, fraction in reports if fraction is not None]
            assert stage.strip(), "a stage has no name"
            assert all(0 <= each <= 1 for each in fractions), f"stage {stage!r} reported {fractions}"
            assert fractions == sorted(fractions), f"stage {stage!r} went backwards: {fractions}"

    @rule("L5", "closing an engine ends what runs, and what waits")
    def test_l5_close_with_running_requests(self, kit: Kit) -> None:
        with kit.fresh() as engine:
            requests = [kit.request(kit.prompt(0), engine.long_tokens) for _ in range(engine.n_slots + 2)]

            async def scenario() -> list[Answer]:
                generators = engine.start(requests)
                streams = asyncio.ensure_future(engine.read(generators))
                while not engine.stats().n_running and not streams.done():  # noqa: ASYNC110 - an engine tells nobody
                    await asyncio.sleep(0.005)
                await _within(engine.engine.close(), "close did not end")
                return await _within(streams, "streams of a closed engine did not end")

            answers = engine.call(scenario, 4 * DEATH_IS_KNOWN_WITHIN_S)
        for answer in answers:
            has_ended = answer.finish is not None or isinstance(answer.error, EngineDeadError)
            assert has_ended, f"a stream of a closed engine ended with {answer.error!r}, not EngineDeadError"


async def _within(work: Awaitable[_T], otherwise: str) -> _T:
    try:
        return await asyncio.wait_for(work, DEATH_IS_KNOWN_WITHIN_S * TIME_SCALE)
    except (TimeoutError, asyncio.TimeoutError):
        raise StalledError(f"{otherwise} within {DEATH_IS_KNOWN_WITHIN_S:g} s") from None


async def _illness(engine: LiveEngine) -> Exception | None:
    try:
        await engine.engine.check_health()
    except EngineDeadError as error:
        return error
    return None


async def _kill(kit: Kit, engine: LiveEngine) -> None:
    """Let the engine die as it would in earnest."""
    if kit.case.kill_engine is not None:
        outcome = kit.case.kill_engine(engine.engine)
        if inspect.isawaitable(outcome):
            await outcome
        return
    if isinstance(engine.engine, RemoteEngine):
        engine.engine.kill_rank()
        return
    stepper = engine.stepper
    assert stepper is not None, "say in the case how this engine dies: BackendCase(kill_engine=...)"
    _break_steps(stepper)


def _break_steps(stepper: Stepper) -> None:
    def fail(batch: StepBatch) -> StepOutput:
        raise RuntimeError("the device is gone (said by the contract test)")

    stepper.step = fail  # type: ignore[method-assign]
