# SPDX-License-Identifier: Apache-2.0
"""Adapters of a stepper, in the core's engine: named in batches, loaded beside steps, unloaded when nobody has them."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from lmi.api import EngineDeadError, ExistsError, NotFoundError, RequestError, SupportsAdapters, SupportsPinnedAdapters
from lmi.scheduling.adapters import AdapterStepperEngine
from tests.steppers import Gate, ToyStepper, collect, ids_of, new_request, toy_limits


class AdaptedToy(ToyStepper):
    """Knows which adapters it has, and fails a step that names another."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.loaded: dict[str, str] = {}
        self.may_load = threading.Event()
        self.may_load.set()
        self.unloading_threads: set[int] = set()

    def load_adapter(self, name: str, path: str) -> None:
        self.may_load.wait()
        if path == "bad":
            raise RequestError("adapter.not-loadable", f"{name} is bad")
        assert name not in self.loaded
        self.loaded[name] = path

    def unload_adapter(self, name: str) -> None:
        self.unloading_threads.add(threading.get_ident())
        del self.loaded[name]

    def step(self, batch):
        for entry in (*batch.prefills, *batch.decodes):
            assert not entry.adapter or entry.adapter in self.loaded
        return super().step(batch)

    def named(self) -> list[set[str]]:
        """The adapters of each batch so far."""
        return [{entry.adapter for entry in (*each.prefills, *each.decodes)} for each in self.batches]


def request(name: str, adapter: str = "", **options):
    return msgspec.structs.replace(new_request(name, **options), adapter=adapter)


def run(scenario, stepper: ToyStepper, *adapters: str):
    async def main():
        engine = AdapterStepperEngine(stepper)
        try:
            for name in adapters:
                await engine.load_adapter(name, f"/{name}")
            return await asyncio.wait_for(scenario(engine), 60)
        finally:
            await engine.close()

    return asyncio.run(main())


async def unloading_beside_an_answer(engine, gate: Gate, max_tokens: int):
    """Tasks of an answer that stands in its first step, and of unloading its adapter."""
    answer = asyncio.ensure_future(collect(engine, request("a", "fr", max_tokens=max_tokens)))
    await gate.reached()
    leaving = asyncio.ensure_future(engine.unload_adapter("fr"))
    await asyncio.sleep(0)
    return answer, leaving


def test_every_entry_of_a_batch_names_its_requests_adapter() -> None:
    stepper = AdaptedToy()

    async def scenario(engine):
        wanted = [request("a", "fr", prompt_ids=[1, 2, 3] * 16), request("b"), request("c", "de")]
        return await asyncio.gather(*(collect(engine, each) for each in wanted))

    answers = run(scenario, stepper, "fr", "de")
    assert all(len(ids_of(chunks)) == 12 for chunks in answers)
    by_slot: dict[int, set[str]] = {}
    for batch in stepper.batches:
        for entry in (*batch.prefills, *batch.decodes):
            by_slot.setdefault(entry.slot, set()).add(entry.adapter)
    assert sorted(map(sorted, by_slot.values())) == [[""], ["de"], ["fr"]]


def test_a_name_that_is_not_loaded_is_refused_with_those_that_are() -> None:
    async def scenario(engine):
        with pytest.raises(NotFoundError, match=r"adapter .it. is not loaded.*Loaded: de, fr"):
            await collect(engine, request("a", "it"))
        with pytest.raises(NotFoundError, match="'it'"):
            await engine.unload_adapter("it")
        with pytest.raises(NotFoundError, match="'it'"):
            await engine.pin_adapter("it", True)
        with pytest.raises(ExistsError, match="'fr' is loaded from /fr"):
            await engine.load_adapter("fr", "/other")
        with pytest.raises(RequestError, match="bad"):
            await engine.load_adapter("it", "bad")
        return await engine.list_adapters()

    assert run(scenario, AdaptedToy(), "fr", "de") == ["de", "fr"]


def test_the_engine_has_the_abilities_of_adapters() -> None:
    async def scenario(engine):
        await engine.pin_adapter("fr", True)
        return isinstance(engine, SupportsAdapters) and isinstance(engine, SupportsPinnedAdapters)

    assert run(scenario, AdaptedToy(), "fr")


def test_streams_go_on_while_an_adapter_is_loaded() -> None:
    stepper = AdaptedToy()

    async def scenario(engine):
        stepper.may_load.clear()
        loading = asyncio.ensure_future(engine.load_adapter("fr", "/fr"))
        answer = await collect(engine, request("a", max_tokens=20))
        was_loading = not loading.done()
        stepper.may_load.set()
        await loading
        return was_loading, len(ids_of(answer))

    assert run(scenario, stepper) == (True, 20)


def test_an_adapter_is_unloaded_after_the_last_request_that_has_it_between_two_steps() -> None:
    gate = Gate()
    stepper = AdaptedToy(on_step=gate)

    async def scenario(engine):
        answer, leaving = await unloading_beside_an_answer(engine, gate, max_tokens=3)
        assert await engine.list_adapters() == []
        with pytest.raises(NotFoundError):
            await collect(engine, request("b", "fr"))
        with pytest.raises(ExistsError, match="is being unloaded"):
            await engine.load_adapter("fr", "/fr")
        assert not leaving.done()
        gate.open(3)
        assert len(ids_of(await answer)) == 3
        await leaving
        await engine.load_adapter("fr", "/again")
        return dict(stepper.loaded)

    assert run(scenario, stepper, "fr") == {"fr": "/again"}
    assert stepper.unloading_threads == stepper.threads


def test_an_unload_that_is_given_up_while_requests_run_leaves_the_adapter_as_it_was() -> None:
    gate = Gate()
    stepper = AdaptedToy(on_step=gate)

    async def scenario(engine):
        answer, leaving = await unloading_beside_an_answer(engine, gate, max_tokens=2)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        gate.open(20)
        await answer
        again = await collect(engine, request("b", "fr", max_tokens=2))
        return await engine.list_adapters(), len(ids_of(again))

    assert run(scenario, stepper, "fr") == (["fr"], 2)


def test_a_load_that_is_given_up_is_done_and_listed_all_the_same() -> None:
    stepper = AdaptedToy()

    async def scenario(engine):
        stepper.may_load.clear()
        loading = asyncio.ensure_future(engine.load_adapter("fr", "/fr"))
        await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        stepper.may_load.set()
        await engine.load_adapter("de", "/de")  # not beside the other one
        return await engine.list_adapters()

    assert run(scenario, stepper) == ["de", "fr"]


def test_the_list_waits_for_a_load_that_was_given_up_and_goes_on() -> None:
    stepper = AdaptedToy()

    async def scenario(engine):
        stepper.may_load.clear()
        loading = asyncio.ensure_future(engine.load_adapter("fr", "/fr"))
        await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        listing = asyncio.ensure_future(engine.list_adapters())
        await asyncio.sleep(0.01)
        was_waiting = not listing.done()
        stepper.may_load.set()
        return was_waiting, await listing

    assert run(scenario, stepper) == (True, ["fr"]), "who asks what is left of a load must not be told: nothing"


def test_the_thread_of_a_load_ends_with_it() -> None:
    async def scenario(engine):
        before = set(threading.enumerate())
        await engine.load_adapter("fr", "/fr")
        for thread in set(threading.enumerate()) - before:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
        return True

    assert run(scenario, AdaptedToy())


def test_a_cancelled_requests_adapter_can_be_unloaded() -> None:
    gate = Gate()
    stepper = AdaptedToy(on_step=gate)

    async def scenario(engine):
        chunks = engine.generate(request("a", "fr", max_tokens=100))
        reading = asyncio.ensure_future(chunks.__anext__())
        await gate.reached()
        gate.open()
        await reading
        leaving = asyncio.ensure_future(engine.unload_adapter("fr"))
        await asyncio.sleep(0)
        await chunks.aclose()
        gate.open(100)
        await leaving
        return dict(stepper.loaded)

    assert run(scenario, stepper, "fr") == {}


def test_of_a_step_no_more_adapters_are_named_than_it_takes_and_others_wait_in_their_order() -> None:
    stepper = AdaptedToy(toy_limits(max_slots=4, max_adapters_per_step=1))

    async def scenario(engine):
        names = ["fr", "de", "fr", "", "it"]
        wanted = [request(f"{n}", name, max_tokens=4, ignore_eos=True) for n, name in enumerate(names)]
        return await asyncio.gather(*(collect(engine, each) for each in wanted))

    answers = run(scenario, stepper, "fr", "de", "it")
    assert all(len(ids_of(chunks)) == 4 for chunks in answers)
    named = stepper.named()
    assert all(len(names - {""}) <= 1 for names in named), named
    order = [name for names in named for name in names if name]
    changes = [name for n, name in enumerate(order) if n == 0 or order[n - 1] != name]
    assert changes == ["fr", "de", "fr", "it"], "first come, first served: nobody is passed for ever"
    assert "" in named[0], "a request without an adapter passes those that wait for one"


def test_after_the_engine_ended_loads_and_unloads_are_refused() -> None:
    stepper = AdaptedToy()

    async def scenario(engine):
        await engine.close()
        for call in (engine.load_adapter("de", "/de"), engine.unload_adapter("fr")):
            with pytest.raises(EngineDeadError, match="closed"):
                await call
        return True

    assert run(scenario, stepper, "fr")
