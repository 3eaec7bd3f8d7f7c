# SPDX-License-Identifier: Apache-2.0
"""The adapters of a model with real worker processes: what each of them holds, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from lmi.api import (
    EngineDeadError,
    EngineLoadError,
    ExistsError,
    LmiError,
    NotFoundError,
    NotReadyError,
    RequestError,
    Task,
    UnsupportedError,
)
from lmi.serving.adapters import AdapterJournal
from tests.core.adapter_rig import Rig, faulty_path, play

__all__ = ["faulty_path", "play"]


def test_an_adapter_is_loaded_by_every_worker_and_by_those_that_start_later(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, _ = await rig.ready(2)
        await rig.add("fr")
        await rig.add("de")
        assert await rig.held() == [["de", "fr"]] * 2
        first.kill()
        await rig.until(lambda: first not in rig.pool.workers)
        await rig.ready(2)
        assert await rig.held() == [["de", "fr"]] * 2
        await rig.journal.remove("fr")
        assert (await rig.held(), rig.names()) == ([["de"]] * 2, ["de"])

    play(scenario, minWorkers=2, maxWorkers=2)


def test_what_changes_while_a_worker_loads_is_caught_up_before_it_takes_requests(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, _ = await rig.ready(2)
        for name in ("slow", "old"):
            await rig.add(name)
        brake = rig.adapter("slow", "slow") / "fault.txt"  # from now on its load takes until the file is gone
        first.kill()
        await rig.until(lambda: any(worker.stage == "load adapter slow" for worker in rig.pool.workers))
        await rig.add("new")
        await rig.journal.remove("old")
        [loading] = [worker for worker in rig.pool.workers if not worker.takes_requests]
        assert loading.stage == "load adapter slow"
        brake.unlink()
        await rig.ready(2)
        assert await rig.held() == [["new", "slow"]] * 2

    play(scenario, minWorkers=2, maxWorkers=2)


def test_a_worker_that_becomes_ready_while_an_adapter_is_loaded_gets_it_too(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, second = await rig.ready(2)
        first.kill()
        await rig.until(lambda: first not in rig.pool.workers)
        brake = rig.adapter("fr", "slow") / "fault.txt"
        load = asyncio.create_task(rig.take(brake.parent))
        await rig.ready(2)
        assert not load.done()
        assert [worker.adapters.paths for worker in rig.pool.workers] == [{}, {}]
        assert second in rig.pool.workers
        brake.unlink()
        await load
        assert await rig.held() == [["fr"]] * 2

    play(scenario, minWorkers=2, maxWorkers=2)


def test_an_adapter_that_one_worker_cannot_load_is_taken_back_from_the_others(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready(2)
        with pytest.raises(RequestError, match=r"adapter\.not-loadable: adapter 'fr' could not be loaded from .*/fr: "):
            await rig.add("fr", "only one")
        assert (await rig.held(), rig.names()) == ([[]] * 2, [])
        (rig.folder / "fr" / "fault.txt").unlink()
        await rig.add("fr")
        assert await rig.held() == [["fr"]] * 2

    play(scenario, minWorkers=2, maxWorkers=2)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("refuse", "these matrices do not fit. Train them again."), ("raise", "ValueError: the matrices are made of")],
)
def test_what_the_engine_says_against_an_adapter_is_told_and_the_engine_lives(
    play: Callable[..., None], fault: str, said: str
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        with pytest.raises(RequestError) as told:
            await rig.add("fr", fault)
        assert said in str(told.value)
        assert (rig.names(), rig.pool.workers, worker.takes_requests) == ([], [worker], True)

    play(scenario)


def test_an_adapter_that_kills_its_engine_is_not_loaded_by_the_next_one(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        with pytest.raises(EngineDeadError, match="worker model/0 did not survive the load of adapter 'fr'"):
            await rig.add("fr", "segfault")
        await rig.until(lambda: worker not in rig.pool.workers)
        await rig.ready()
        assert (await rig.held(), rig.names(), rig.pool.n_deaths) == ([[]], [], 1)

    play(scenario)


def test_files_that_are_wrong_never_reach_the_engine(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()

        def wrong() -> None:
            raise RequestError("adapter.invalid", "wrong")

        with pytest.raises(RequestError, match="wrong"):
            await rig.take(rig.adapter("fr"), wrong)
        assert (await rig.held(), rig.names()) == ([[]], [])

    play(scenario)


def test_of_two_loads_under_one_name_one_wins(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        results = await asyncio.gather(rig.add("fr"), rig.add("fr"), return_exceptions=True)
        assert [type(each) for each in results] == [type(None), ExistsError]
        assert "has an adapter 'fr' already" in str(results[1])
        assert await rig.held() == [["fr"]]

    play(scenario)


def test_a_request_may_name_an_adapter_from_when_it_is_loaded_until_it_is_removed(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        refuse = rig.journal.refuse_unknown
        refuse("")
        with pytest.raises(
            NotFoundError, match=r"adapter\.unknown: model 'model' has no adapter 'french'\. It has none"
        ):
            refuse("french")
        brake = rig.adapter("french", "slow") / "fault.txt"
        load = asyncio.create_task(rig.take(brake.parent))
        await rig.until(lambda: rig.names() == ["french"])
        with pytest.raises(NotReadyError, match=r"adapter\.loading"):
            refuse("french")
        with pytest.raises(NotReadyError, match=r"adapter\.loading"):
            await rig.journal.remove("french")
        brake.unlink()
        await load
        refuse("french")
        with pytest.raises(NotFoundError, match=r"Did you mean 'french'\? Adapters here: french\."):
            refuse("frnch")
        await rig.journal.remove("french")
        for gone in (lambda: refuse("french"), lambda: rig.journal.describe("french")):
            with pytest.raises(NotFoundError):
                gone()

    play(scenario)


def test_removing_waits_for_running_requests_and_refuses_new_ones_at_once(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await rig.add("fr")
        text = rig.submit("fr", 60)
        removals = [asyncio.create_task(rig.journal.remove("fr")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotFoundError, match="adapter 'fr' is being removed"):
            rig.journal.refuse_unknown("fr")
        with pytest.raises(ExistsError, match="draining"):
            await rig.add("fr")
        assert await text == "fr" * 30
        await asyncio.gather(*removals)
        assert (await rig.held(), rig.names()) == ([[]], [])

    play(scenario)


def test_a_request_that_is_drained_survives_the_death_of_its_worker(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        text = rig.submit("fr", 100)
        removal = asyncio.create_task(rig.journal.remove("fr"))
        await rig.until(lambda: worker.stats.n_running)
        worker.kill()
        assert await text == "fr" * 50
        await removal
        assert (await rig.held(), rig.names()) == ([[]], [])

    play(scenario, heartbeat_interval=0.02)


def test_an_adapter_that_is_held_stays_between_two_requests(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await rig.add("fr")
        with rig.journal.held("fr"):
            removal = asyncio.create_task(rig.journal.remove("fr"))
            assert await rig.submit("fr", 2) == "fr"
            await asyncio.sleep(0.2)  # time enough to find that no request runs
            assert await rig.submit("fr", 4) == "frfr"
            assert rig.journal.describe("fr")["state"] == "draining"
        await removal
        assert rig.names() == []

    play(scenario)


def test_a_model_goes_on_without_an_adapter_whose_files_are_gone_at_a_restart(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        await rig.add("de")
        rig.adapter("fr").rmdir()
        worker.kill()
        await rig.until(lambda: worker not in rig.pool.workers)
        await rig.ready()
        assert await rig.held() == [["de"]]
        assert [each["state"] for each in rig.journal.described()] == ["loaded", "failed"]
        with pytest.raises(EngineLoadError, match=r"adapter 'fr' could not be loaded from .*there is no folder"):
            rig.journal.refuse_unknown("fr")
        await rig.journal.remove("fr")
        await rig.add("fr")
        rig.journal.refuse_unknown("fr")
        assert await rig.held() == [["de", "fr"]]

    play(scenario)


def test_an_adapter_that_stays_in_memory_can_be_asked_for_no_more(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTY_UNLOAD", "refuse")

    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await rig.add("fr")
        with pytest.raises(LmiError, match=r"adapter\.not-unloaded: .*this adapter does not want to go"):
            await rig.journal.remove("fr")
        with pytest.raises(NotFoundError):
            rig.journal.refuse_unknown("fr")

    play(scenario)


def test_nothing_is_loaded_while_no_worker_is_ready(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(NotReadyError, match=r"model\.loading"):
            await rig.add("fr")
        assert rig.names() == []
        await rig.ready()

    play(scenario)


def test_adapters_are_for_models_that_generate(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        journal = AdapterJournal(replace(rig.pool.plan, task=Task.EMBED), lambda: rig.pool, {})
        with pytest.raises(UnsupportedError, match="adapters are for models that generate"):
            journal.refuse_unknown("fr")
        with pytest.raises(UnsupportedError, match="adapters are for models that generate"):
            await rig.take(rig.adapter("fr"), journal=journal)
        journal.refuse_unknown("")
        await rig.ready()

    play(scenario)
