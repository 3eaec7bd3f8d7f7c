# SPDX-License-Identifier: Apache-2.0
"""Adapters that are loaded when a request names them, and those that are pinned; with real worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi.api import (
    DeadlineError,
    EngineDeadError,
    EngineLoadError,
    NotFoundError,
    NotReadyError,
    RequestError,
    UnsupportedError,
)
from lmi.serving import adapter_entries
from lmi.serving.adapters import AdapterJournal
from tests.core.adapter_rig import Rig, faulty_path, play

__all__ = ["faulty_path", "play"]


async def registered(rig: Rig, name: str, fault: str = "") -> None:
    await rig.add(name, fault, is_preloaded=False)


async def named(rig: Rig, name: str) -> None:
    """What happens when a request names an adapter, up to its start."""
    await rig.journal.prepare(name)
    rig.journal.refuse_unknown(name)


def state(rig: Rig, name: str) -> str:
    return str(rig.journal.describe(name)["state"])


def pinned(rig: Rig) -> list[list[str]]:
    """What the engines have pinned."""
    pids = [worker.pid for worker in rig.pool.workers]
    return [sorted(sign.parent.name for sign in rig.folder.glob(f"*/pinned-{pid}")) for pid in pids]


# ------------------------------------------------------------------------------------ loaded by the first request


def test_an_adapter_that_is_only_registered_is_loaded_by_the_first_request(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready(2)
        await registered(rig, "fr")
        assert (await rig.held(), state(rig, "fr"), rig.journal.wanted()) == ([[]] * 2, "registered", {})
        assert list(rig.journal.offered()) == ["fr"]
        await named(rig, "fr")
        assert (await rig.held(), state(rig, "fr")) == ([["fr"]] * 2, "loaded")
        assert await rig.submit("fr", 4) == "frfr"

    play(scenario, minWorkers=2, maxWorkers=2)


def test_a_worker_that_is_started_again_loads_what_was_loaded_late_and_not_what_is_registered(
    play: Callable[..., None],
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await registered(rig, "fr")
        await registered(rig, "de")
        await named(rig, "fr")
        worker.kill()
        await rig.until(lambda: worker not in rig.pool.workers)
        await rig.ready()
        assert await rig.held() == [["fr"]]
        await named(rig, "de")
        assert await rig.held() == [["de", "fr"]]

    play(scenario)


def test_requests_that_come_while_it_is_loaded_wait_for_the_same_load(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await registered(rig, "fr", "slow")
        waiting = [asyncio.create_task(named(rig, "fr")) for _ in range(3)]
        await rig.until(lambda: rig.journal.describe("fr").get("waits_for"))
        assert (state(rig, "fr"), list(rig.journal.offered())) == ("loading", ["fr"])
        for change in (rig.journal.remove("fr"), rig.journal.update("fr", is_pinned=True)):
            with pytest.raises(NotReadyError, match=r"adapter\.loading: adapter 'fr' is being loaded"):
                await change
        waiting[0].cancel()  # its caller has left
        (rig.adapter("fr") / "fault.txt").unlink()
        await asyncio.gather(*waiting[1:])
        assert await rig.held() == [["fr"]]

    play(scenario)


def test_one_that_cannot_be_loaded_is_refused_and_not_tried_again_at_once(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await registered(rig, "fr", "refuse")
        for _ in range(2):
            with pytest.raises(EngineLoadError, match="these matrices do not fit"):
                await named(rig, "fr")
            (rig.adapter("fr") / "fault.txt").unlink(missing_ok=True)
        shown = rig.journal.describe("fr")
        assert (shown["state"], "these matrices do not fit" in shown["failure"]) == ("registered", True)
        monkeypatch.setattr(adapter_entries, "RETRY_S", 0)
        await named(rig, "fr")
        assert (await rig.held(), "failure" in rig.journal.describe("fr")) == ([["fr"]], False)
        assert worker.takes_requests

    play(scenario)


def test_one_that_kills_its_engine_is_loaded_by_no_request_any_more(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await registered(rig, "fr", "segfault")
        with pytest.raises(EngineDeadError, match="did not survive the load of adapter 'fr'"):
            await named(rig, "fr")
        await rig.until(lambda: worker not in rig.pool.workers)
        await rig.ready()
        with pytest.raises(EngineLoadError, match="It is not tried again"):
            await named(rig, "fr")
        assert (state(rig, "fr"), rig.pool.n_deaths) == ("failed", 1)
        await rig.journal.remove("fr")
        (rig.adapter("fr") / "fault.txt").unlink()
        await rig.add("fr")
        assert await rig.submit("fr", 2) == "fr"

    play(scenario)


def test_a_late_load_that_takes_too_long_is_given_up_and_the_adapter_stays_registered(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_entries, "RETRY_S", 0)

    async def scenario(rig: Rig) -> None:
        await rig.ready()
        journal = rig.within(0.2)
        brake = rig.adapter("fr", "slow") / "fault.txt"
        await rig.take(brake.parent, journal=journal, is_preloaded=False)
        with pytest.raises(EngineLoadError, match=r"was not loaded from .*/fr within 0\.2 s"):
            await journal.prepare("fr")
        await rig.until(lambda: journal.describe("fr")["state"] == "registered")
        brake.unlink()
        await journal.prepare("fr")
        assert (journal.describe("fr")["state"], await rig.held()) == ("loaded", [["fr"]])

    play(scenario)


def test_what_a_request_names_while_no_worker_is_ready_is_loaded_by_the_next_one(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        await registered(rig, "fr")
        worker.kill()
        await rig.until(lambda: worker not in rig.pool.workers)
        await named(rig, "fr")
        text = rig.submit("fr", 4)
        assert (await text, await rig.held()) == ("frfr", [["fr"]])

    play(scenario)


def test_one_that_is_only_registered_is_removed_at_once(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await registered(rig, "fr")
        await rig.journal.remove("fr")
        assert rig.names() == []
        with pytest.raises(NotFoundError):
            await named(rig, "fr")

    play(scenario)


def test_an_update_loads_what_was_only_registered(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await registered(rig, "fr")
        await rig.journal.update("fr", is_preloaded=True)
        assert await rig.held() == [["fr"]]
        await rig.journal.update("fr", is_preloaded=False)
        shown = rig.journal.describe("fr")
        assert (shown["preload"], shown["state"]) == (False, "loaded"), "what is loaded stays where it is"
        with pytest.raises(NotFoundError, match=r"adapter\.unknown"):
            await rig.journal.update("de", is_preloaded=True)

    play(scenario)


# ------------------------------------------------------------------------------------------------------- pinned ones


def test_a_pinned_adapter_is_pinned_on_every_worker_and_on_those_that_start_later(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, _ = await rig.ready(2)
        await rig.add("fr", is_pinned=True, is_preloaded=False)  # to be pinned, it has to be loaded
        await rig.add("de")
        assert pinned(rig) == [["fr"]] * 2
        first.kill()
        await rig.until(lambda: first not in rig.pool.workers)
        await rig.ready(2)
        assert pinned(rig) == [["fr"]] * 2
        await rig.journal.update("de", is_pinned=True)
        await rig.journal.update("fr", is_pinned=False)
        assert pinned(rig) == [["de"]] * 2
        assert [each["pin"] for each in rig.journal.described()] == [True, False]
        await rig.journal.remove("de")
        assert pinned(rig) == [[]] * 2

    play(scenario, minWorkers=2, maxWorkers=2)


def test_an_adapter_that_cannot_be_pinned_is_not_loaded_and_says_why(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        (rig.adapter("fr") / "pin.txt").write_text("refuse")
        with pytest.raises(RequestError, match=r"adapter\.too-many-pinned: others would have no room"):
            await rig.add("fr", is_pinned=True)
        assert (await rig.held(), rig.names()) == ([[]], [])
        await rig.add("fr")
        with pytest.raises(RequestError, match=r"adapter\.too-many-pinned"):
            await rig.journal.update("fr", is_pinned=True)
        assert (state(rig, "fr"), rig.journal.describe("fr")["pin"]) == ("loaded", False)

    play(scenario)


def test_where_one_worker_cannot_pin_an_adapter_the_others_let_it_go(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        first, second = await rig.ready(2)
        await rig.add("fr")
        tried: list[Any] = []
        call = second.call

        async def refuse_once(ability: str, method: str, *args: Any) -> Any:
            if method == "pin_adapter" and not tried:
                tried.append(args)
                raise RequestError("adapter.too-many-pinned", "others would have no room")
            return await call(ability, method, *args)

        second.adapters._call = refuse_once
        with pytest.raises(RequestError, match="others would have no room"):
            await rig.journal.update("fr", is_pinned=True)
        assert (pinned(rig), rig.journal.describe("fr")["pin"]) == ([[]] * 2, False)
        assert (first.adapters.pinned, tried) == (set(), [("fr", True)])

    play(scenario, minWorkers=2, maxWorkers=2)


def test_a_pin_that_takes_too_long_is_given_up(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        journal: AdapterJournal = rig.within(0.2)
        folder: Path = rig.adapter("fr")
        await rig.take(folder, journal=journal)
        (folder / "pin.txt").write_text("slow")
        with pytest.raises(DeadlineError, match=r"'fr' was not pinned within 0\.2 s"):
            await journal.update("fr", is_pinned=True)
        (folder / "pin.txt").unlink()
        assert (pinned(rig), journal.describe("fr")["pin"]) == ([[]], False)

    play(scenario)


def test_a_backend_that_pins_none_refuses_to(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        worker.abilities.remove("pinned-adapters")
        with pytest.raises(
            UnsupportedError, match="pin=true was asked for adapter 'fr', and backend 'faulty' pins none"
        ):
            await rig.add("fr", is_pinned=True)
        await rig.add("fr")
        with pytest.raises(UnsupportedError, match="pins none"):
            await rig.journal.update("fr", is_pinned=True)
        await rig.journal.update("fr", is_pinned=False)

    play(scenario)


# ---------------------------------------------------------------------------------------------- what it is called


def test_messages_call_an_adapter_as_people_do(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        await rig.add("ic-7", alias="french")
        assert rig.journal.describe("ic-7")["alias"] == "french"
        with pytest.raises(RequestError, match=r"has an adapter 'french' \(ic-7\) already"):
            await rig.add("ic-7")
        with pytest.raises(NotFoundError, match=r"has no adapter 'german' \(ic-8\)"):
            rig.journal.refuse_unknown("ic-8", "german")
        await rig.journal.update("ic-7", alias="français")
        assert rig.journal.describe("ic-7")["alias"] == "français"

    play(scenario)
