# SPDX-License-Identifier: Apache-2.0
"""Adapters that workers lose or die of, and loads that take too long; with real worker processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lmi.api import DeadlineError, EngineLoadError, ExistsError, NotFoundError, NotReadyError
from lmi.workers import adapters
from lmi.workers.worker import Worker
from tests.core.adapter_rig import Rig, faulty_path, play

__all__ = ["faulty_path", "play"]


async def gone(rig: Rig, worker: Worker) -> None:
    """Kill a worker, and return when another one is to take its place."""
    worker.kill()
    await rig.until(lambda: worker not in rig.pool.workers)


async def one_of_two_without(rig: Rig, name: str) -> tuple[Worker, Worker]:
    """Two ready workers: one that has an adapter, and one that found no files of it when it was started again."""
    first, holder = await rig.ready(2)
    await rig.add(name)
    rig.adapter(name).rmdir()
    await gone(rig, first)
    await rig.ready(2)
    [other] = [worker for worker in rig.pool.workers if worker is not holder]
    assert (holder.adapters.hold({name}), other.adapters.hold({name})) == (True, False)
    return holder, other


def test_a_model_that_is_shut_down_keeps_nobody_waiting_who_adds_an_adapter(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await rig.add("fr", "slow", is_preloaded=False)
        named = asyncio.ensure_future(rig.journal.prepare("fr"))
        adding = asyncio.ensure_future(rig.add("de", "slow"))
        await rig.until(lambda: any("de" in each.adapters.loading for each in rig.pool.workers))
        rig.journal.drain()
        for waiting in (adding, rig.add("it")):
            with pytest.raises(NotReadyError, match=r"model\.draining: model 'model' is shutting down"):
                await waiting
        await rig.until(lambda: rig.names() == ["fr"])
        assert not named.done(), "a request that runs gets what it has named"
        (rig.folder / "fr" / "fault.txt").unlink()
        await named
        assert await rig.held() == [["fr"]]

    play(scenario)


# ----------------------------------------------------------------------------------------------- what kills a worker


def test_an_adapter_whose_load_a_restarted_worker_does_not_survive_is_left_out_by_the_next(
    play: Callable[..., None],
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        await rig.add("de")
        fault = rig.adapter("fr", "segfault") / "fault.txt"
        worker.kill()
        await rig.until(lambda: rig.pool.n_deaths == 2)  # the second one is of the adapter
        await rig.ready()
        assert (await rig.held(), rig.pool.n_deaths) == ([["de"]], 2)
        shown = rig.journal.describe("fr")
        said = f"worker model/0 did not survive the load of adapter 'fr' from {fault.parent}"
        assert (shown["state"], said in shown["failure"]) == ("failed", True), shown
        with pytest.raises(EngineLoadError, match=r"killed by SIGSEGV.*It is not tried again: mend its files"):
            rig.journal.refuse_unknown("fr")
        rig.journal.refuse_unknown("de")
        fault.unlink()
        await rig.journal.remove("fr")
        await rig.add("fr")
        rig.journal.refuse_unknown("fr")
        assert await rig.held() == [["de", "fr"]]

    play(scenario)


def test_a_second_try_that_kills_its_worker_is_the_last(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        rig.adapter("fr").rmdir()
        await gone(rig, worker)
        [worker] = await rig.ready()
        rig.adapter("fr", "segfault")
        monkeypatch.setattr(adapters, "RETRY_S", 0)
        rig.pool.tend()
        await rig.until(lambda: rig.pool.n_deaths == 2)
        [worker] = await rig.ready()
        rig.pool.tend()
        assert (await rig.held(), rig.journal.describe("fr")["state"], rig.pool.n_deaths) == ([[]], "failed", 2)

    play(scenario)


def test_an_adapter_that_raises_while_a_worker_catches_up_costs_the_worker_nothing(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, _ = await rig.ready(2)
        await rig.add("slow")
        brake = rig.adapter("slow", "slow") / "fault.txt"
        first.kill()
        await rig.until(lambda: any(worker.stage == "load adapter slow" for worker in rig.pool.workers))
        await rig.add("fr")
        rig.adapter("fr", "raise")
        brake.unlink()
        await rig.ready(2)
        assert sorted(await rig.held()) == [["fr", "slow"], ["slow"]]
        assert "the matrices are made of cheese" in rig.journal.describe("fr")["failure"]
        assert rig.pool.n_deaths == 1

    play(scenario, minWorkers=2, maxWorkers=2)


# --------------------------------------------------------------------------------------------- what some workers lack


def test_requests_go_to_the_copies_that_have_their_adapter(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await one_of_two_without(rig, "fr")
        rig.journal.refuse_unknown("fr")
        shown = rig.journal.describe("fr")
        assert (shown["state"], "there is no folder" in shown["failure"]) == ("loaded", True), shown
        answers = [rig.submit(name, 4) for name in ("fr", "", "fr", "fr", "", "fr")]
        assert await asyncio.gather(*answers) == ["frfr", "AAAA", "frfr", "frfr", "AAAA", "frfr"]

    play(scenario, minWorkers=2, maxWorkers=2)


def test_what_waits_for_the_copy_with_its_adapter_is_in_nobodys_way(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        holder, _ = await one_of_two_without(rig, "fr")
        answers = [rig.submit("fr", 100) for _ in range(12)]
        assert len(holder.flights) < 12, "some wait in the server"
        assert await rig.submit("", 2) == "AA"
        assert not any(answer.done() for answer in answers)
        assert await asyncio.gather(*answers) == ["fr" * 50] * 12

    play(scenario, minWorkers=2, maxWorkers=2, max_rolling_batch_size=1)


def test_a_stream_whose_copy_died_waits_for_one_that_has_its_adapter_and_others_go_on(
    play: Callable[..., None],
) -> None:
    async def scenario(rig: Rig) -> None:
        holder, _ = await one_of_two_without(rig, "fr")
        brake = rig.adapter("fr", "slow") / "fault.txt"
        text = rig.submit("fr", 100)
        await rig.until(lambda: holder.stats.n_running)
        await gone(rig, holder)
        assert await rig.submit("", 2) == "AA", "while no other worker is ready"
        brake.unlink()
        assert await text == "fr" * 50

    play(scenario, minWorkers=2, maxWorkers=2, heartbeat_interval=0.02)


def test_a_request_for_an_adapter_that_nobody_has_any_more_ends_with_that(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        text = rig.submit("fr", 1000)
        rig.adapter("fr").rmdir()
        await gone(rig, worker)
        rig.pool.tend()
        assert not text.done(), "the next worker may have it"
        await rig.ready()
        rig.pool.tend()
        with pytest.raises(
            EngineLoadError, match=r"no worker of model 'model' has adapter 'fr' any more\. GET /models"
        ):
            await text

    play(scenario)


def test_a_copy_tries_again_to_load_what_it_lost_once_in_a_while(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await rig.add("fr")
        rig.adapter("fr").rmdir()
        await gone(rig, worker)
        [worker] = await rig.ready()
        assert not worker.adapters.has_to_retry, "it has just tried"
        with pytest.raises(EngineLoadError, match="It is tried again now and then"):
            rig.journal.refuse_unknown("fr")
        rig.adapter("fr", "refuse")
        monkeypatch.setattr(adapters, "RETRY_S", 0)
        rig.pool.tend()
        await rig.until(lambda: "these matrices do not fit" in rig.journal.describe("fr")["failure"])
        (rig.adapter("fr") / "fault.txt").unlink()
        rig.pool.tend()
        await rig.until(lambda: worker.adapters.hold({"fr"}))
        assert rig.journal.describe("fr") == {
            "name": "fr", "src": str(rig.folder / "fr"), "preload": True, "pin": False, "state": "loaded",
            "requests": 0,
        }  # fmt: skip
        assert await rig.submit("fr", 4) == "frfr"

    play(scenario)


# --------------------------------------------------------------------------------------------- what takes too long


def test_a_load_that_takes_too_long_is_given_up_and_the_name_is_free_again(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        journal = rig.within(0.2)
        brake = rig.adapter("fr", "slow") / "fault.txt"
        with pytest.raises(DeadlineError) as told:
            await rig.take(brake.parent, journal=journal)
        assert str(told.value) == (
            f"adapter.load-timeout: adapter 'fr' was not loaded from {brake.parent} within 0.2 s, the limit "
            "option.model_loading_timeout=0.2 (the default); it waited for worker model/0 (0 requests there). "
            "Load it when less is going on, or raise option.model_loading_timeout."
        )
        with pytest.raises(NotFoundError, match="is being removed"):
            journal.refuse_unknown("fr")
        await journal.remove("fr")
        assert (journal.described(), await rig.held(), worker.takes_requests) == ([], [[]], True)
        brake.unlink()
        await rig.add("fr")
        assert await rig.held() == [["fr"]]

    play(scenario)


def test_a_load_that_comes_to_its_end_after_all_is_undone(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        journal = rig.within(0.2)
        brake = rig.adapter("fr", "stubborn") / "fault.txt"
        with pytest.raises(DeadlineError):
            await rig.take(brake.parent, journal=journal)
        shown = journal.describe("fr")
        assert (shown["state"], shown["waits_for"]) == ("unloading", ["worker model/0 (0 requests there)"])
        with pytest.raises(ExistsError, match="unloading"):
            await rig.take(brake.parent, journal=journal)
        removal = asyncio.create_task(journal.remove("fr"))
        brake.unlink()
        await removal
        assert (journal.described(), await rig.held()) == ([], [[]])
        await rig.take(brake.parent, journal=journal)
        assert await rig.held() == [["fr"]]

    play(scenario)


def test_what_a_load_waits_for_is_shown(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        def shown() -> Any:
            return rig.journal.describe("fr").get("waits_for")

        await rig.ready()
        is_checked = threading.Event()
        brake = rig.adapter("fr", "slow") / "fault.txt"
        load = asyncio.create_task(rig.take(brake.parent, is_checked.wait))
        await rig.until(rig.names)
        assert shown() == ["the check of its files"]
        text = rig.submit("", 100)
        is_checked.set()
        await rig.until(lambda: shown() != ["the check of its files"])
        assert shown() == ["worker model/0 (1 request there)"]
        brake.unlink()
        await load
        assert shown() is None
        assert await text == "A" * 100

    play(scenario)
