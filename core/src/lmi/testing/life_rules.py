# SPDX-License-Identifier: Apache-2.0
"""L: how an engine starts, ends and dies."""

from __future__ import annotations

import asyncio
import inspect
import itertools

from lmi.api import EngineDeadError, StepBatch, StepOutput, Stepper
from lmi.testing.generation_rules import refusal_after_close
from lmi.testing.kit import Kit
from lmi.testing.live import TIME_SCALE, Answer, LiveEngine
from lmi.testing.rules import rule

DEATH_IS_KNOWN_WITHIN_S = 5.0


class LifeRules:
    """Rules L1 to L4."""

    @rule("L1", "closing an engine twice is fine")
    def test_l1_close_twice(self, kit: Kit) -> None:
        engine = kit.load()
        try:
            engine.answer(kit.request(kit.prompt(0), 2))
            engine.call(engine.engine.close)
        finally:
            engine.close()

    @rule("L2", "a closed engine refuses requests")
    def test_l2_generate_after_close(self, kit: Kit) -> None:
        engine = kit.load()
        engine.call(engine.engine.close)
        try:
            answer = engine.answers([kit.request(kit.prompt(0), 2)], DEATH_IS_KNOWN_WITHIN_S)[0]
        finally:
            engine.close()
        wrong = refusal_after_close(answer.error)
        assert not wrong, wrong

    @rule("L3", "when an engine dies, its health and every open stream say so within 5 s")
    def test_l3_death(self, kit: Kit) -> None:
        engine = kit.load()
        room = engine.engine.limits.max_context_tokens - 64

        async def scenario() -> tuple[list[Answer], Exception | None]:
            requests = [kit.request(kit.prompt(number), room) for number in range(2)]
            streams = asyncio.ensure_future(engine.gather(requests))
            while engine.stats().n_running < 2 and not streams.done():  # noqa: ASYNC110 - an engine tells nobody
                await asyncio.sleep(0.005)
            await _kill(kit, engine)
            answers = await asyncio.wait_for(streams, DEATH_IS_KNOWN_WITHIN_S * TIME_SCALE)
            try:
                await asyncio.wait_for(engine.engine.check_health(), DEATH_IS_KNOWN_WITHIN_S * TIME_SCALE)
            except EngineDeadError as error:
                return answers, error
            return answers, None

        try:
            answers, illness = engine.call(scenario)
        finally:
            engine.close()
        for answer in answers:
            assert isinstance(answer.error, EngineDeadError), (
                f"an open stream of a dead engine ended with {answer.error or answer.finish!r}, not EngineDeadError"
            )
        assert illness is not None, "check_health finds nothing wrong with a dead engine"

    @rule("L4", "loading reports its stages, and fractions that only grow within one")
    def test_l4_progress(self, kit: Kit) -> None:
        stages = kit.engine.stages
        assert stages, "lmi_load_engine never called progress: a user would watch a silent start"
        for stage, reports in itertools.groupby(stages, key=lambda report: report[0]):
            fractions = [fraction for _, fraction in reports if fraction is not None]
            assert stage.strip(), "a stage has no name"
            assert all(0 <= each <= 1 for each in fractions), f"stage {stage!r} reported {fractions}"
            assert fractions == sorted(fractions), f"stage {stage!r} went backwards: {fractions}"


async def _kill(kit: Kit, engine: LiveEngine) -> None:
    """Let the engine die as it would in earnest."""
    if kit.case.kill_engine is not None:
        outcome = kit.case.kill_engine(engine.engine)
        if inspect.isawaitable(outcome):
            await outcome
        return
    stepper = engine.stepper
    assert stepper is not None, "say in the case how this engine dies: BackendCase(kill_engine=...)"
    _break_steps(stepper)


def _break_steps(stepper: Stepper) -> None:
    def fail(batch: StepBatch) -> StepOutput:
        raise RuntimeError("the device is gone (said by the contract test)")

    stepper.step = fail  # type: ignore[method-assign]
