# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of trtllm, on a stand-in whose answers depend on an adapter's weights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import lmi_trtllm
from lmi.api import (
    EngineDeadError,
    ExistsError,
    NotFoundError,
    RequestError,
)
from lmi.artifacts import detect
from lmi.testing import write_tiny_adapter
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.places import Places
from tests.backends.trtllm_standin import answer, cache, folder, ids_of, load, request, running, standin
from tests.limits import limit_s

__all__ = ["cache", "folder", "standin"]

WAYS = [{"backend": "pytorch"}, {"backend": "tensorrt"}]


def adapters(folder: Path, *names: str, rank: int = 4) -> dict[str, str]:
    """Folders of adapters for the model in a folder, each with weights of its own."""
    places = {name: folder.parent / "more" / name for name in names}
    return {
        name: str(write_tiny_adapter(place, folder, seed=seed, rank=rank))
        for seed, (name, place) in enumerate(places.items(), start=1)
    }


# ---------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("options", WAYS)
def test_each_adapter_has_answers_of_its_own_alone_and_beside_others(
    standin: Path, folder: Path, options: dict[str, Any]
) -> None:
    engine = load(folder, enable_lora=True, **options)
    paths = adapters(folder, "de", "fr")

    async def scenario() -> tuple[list[list[int]], list[list[int]]]:
        before = ids_of(await answer(engine, request()))
        for name, path in paths.items():
            await engine.load_adapter(name, path)
        names = ["", *paths]
        alone = [ids_of(await answer(engine, request(adapter=name))) for name in names]
        beside = await asyncio.gather(*(answer(engine, request(adapter=name)) for name in names))
        assert alone[0] == before
        return alone, [ids_of(each) for each in beside]

    alone, beside = running(engine, scenario)
    assert alone == beside and len({tuple(each) for each in alone}) == 3


def test_a_stream_goes_on_with_its_adapter_and_min_tokens_keep_it(standin: Path, folder: Path) -> None:
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "fr")

    async def scenario() -> list[list[int]]:
        await engine.load_adapter("fr", paths["fr"])
        asked: list[dict[str, Any]] = [{}, {"min_tokens": 3}]
        found = [ids_of(await answer(engine, request(adapter="fr", max_tokens=8, **each))) for each in asked]
        rest = request(adapter="fr", max_tokens=8, resumed_ids=found[0][:3])
        return [*found, found[0][:3] + ids_of(await answer(engine, rest))]

    whole, *others = running(engine, scenario)
    assert others == [whole, whole]


def test_an_adapter_that_comes_back_under_its_name_has_the_weights_of_its_folder_now(
    standin: Path, folder: Path
) -> None:
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "fr")

    async def scenario() -> tuple[list[list[int]], list[int]]:
        found, numbers = [], []
        for seed in (1, 2):
            write_tiny_adapter(paths["fr"], folder, seed=seed)
            await engine.load_adapter("fr", paths["fr"])
            numbers.append(engine._adapters["fr"].lora_int_id)
            found.append(ids_of(await answer(engine, request(adapter="fr"))))
            await engine.unload_adapter("fr")
        return found, numbers

    (first, second), numbers = running(engine, scenario)
    assert first != second and len(set(numbers)) == 2


@pytest.mark.parametrize("options", WAYS)
def test_more_different_adapters_than_there_is_room_for_wait_and_are_answered(
    standin: Path, folder: Path, options: dict[str, Any]
) -> None:
    engine = load(folder, enable_lora=True, max_loras=2, **options)
    paths = adapters(folder, "a", "b", "c", "d", "e")

    async def scenario() -> list[tuple[list[int], list[int]]]:
        for name, path in paths.items():
            await engine.load_adapter(name, path)
        asked = [request(adapter=name, max_tokens=20) for name in paths for _ in range(2)]
        together = await asyncio.gather(*(answer(engine, each) for each in asked))
        alone = [await answer(engine, each) for each in asked]
        return [(ids_of(one), ids_of(other)) for one, other in zip(together, alone, strict=True)]

    found = running(engine, scenario)
    assert all(one == other and len(one) == 20 for one, other in found)
    assert engine.stats().n_waiting == 0


def test_the_library_itself_refuses_what_there_is_no_room_for(standin: Path, folder: Path) -> None:
    engine = load(folder, enable_lora=True, max_loras=1)
    engine._places = Places(2)  # as if nobody waited
    paths = adapters(folder, "a", "b")

    async def scenario() -> list[Any]:
        for name, path in paths.items():
            await engine.load_adapter(name, path)
        asked = [answer(engine, request(adapter=name, max_tokens=20)) for name in paths]
        return await asyncio.gather(*asked, return_exceptions=True)

    _, refused = running(engine, scenario)
    assert "Cache is full" in str(refused)


def test_who_waits_for_a_place_hears_of_the_engines_end(standin: Path, folder: Path) -> None:
    engine = load(folder, enable_lora=True, max_loras=1)
    paths = adapters(folder, "a", "b")

    async def scenario() -> list[Any]:
        for name, path in paths.items():
            await engine.load_adapter(name, path)
        streams = [asyncio.ensure_future(answer(engine, request(adapter=name, max_tokens=400))) for name in paths]
        while engine.stats().n_waiting != 1:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.llm._executor.shutdown)
        return await asyncio.gather(*streams, return_exceptions=True)

    assert [type(each) for each in running(engine, scenario)] == [EngineDeadError] * 2


def test_places_are_given_in_the_order_of_asking() -> None:
    async def scenario() -> list[str]:
        places, seen, leave = Places(1), list[str](), asyncio.Event()

        async def use(number: int, name: str) -> None:
            async with places.held(number):
                seen.append(name)
                await leave.wait()

        tasks = []
        for number, name in ((1, "first"), (2, "second"), (1, "third")):  # the third could join the first
            tasks.append(asyncio.ensure_future(use(number, name)))
            await asyncio.sleep(0)
        before = [*seen]
        leave.set()
        await asyncio.wait_for(asyncio.gather(*tasks), limit_s(10))
        return before + seen

    assert asyncio.run(scenario()) == ["first", "first", "second", "third"]


# ------------------------------------------------------------------------------------------------------------- loading


def of_another_rank(path: Path) -> None:
    write_tiny_adapter(path, path.parents[1] / "model", rank=32)


def without_weights(path: Path) -> None:
    (path / "adapter_model.safetensors").unlink()


def with_a_broken_configuration(path: Path) -> None:
    (path / "adapter_config.json").write_text("{")


def of_zeros(path: Path) -> None:
    file = path / "adapter_model.safetensors"
    save_file({name: 0 * value for name, value in load_file(file).items()}, file)


def nothing_there(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


FAULTS = [
    (of_another_rank, r"adapter\.rank\S* adapter 'fr' has rank 32, and max_lora_rank is 16"),
    (without_weights, "has no weights"),
    (with_a_broken_configuration, "cannot be read"),
    (of_zeros, "it changes nothing"),
    (nothing_there, "there is no such folder"),
]


@pytest.mark.parametrize(("spoil", "said"), FAULTS)
def test_what_cannot_be_loaded_is_refused_and_the_engine_lives(
    standin: Path, folder: Path, spoil: Any, said: str
) -> None:
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "de", "fr")
    spoil(Path(paths["fr"]))

    async def scenario() -> tuple[str, list[str], list[int]]:
        await engine.load_adapter("de", paths["de"])
        with pytest.raises(RequestError, match=said) as caught:
            await engine.load_adapter("fr", paths["fr"])
        assert caught.value.code == "adapter.not-loadable"
        return str(caught.value), await engine.list_adapters(), ids_of(await answer(engine, request(adapter="de")))

    message, listed, ids = running(engine, scenario)
    assert repr("fr") in message and paths["fr"] in message
    assert listed == ["de"] and len(ids) == 5


def test_a_folder_that_cannot_be_loaded_never_reaches_the_library(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "fr", rank=32)
    monkeypatch.setattr(engine.llm, "generate_async", None)
    with pytest.raises(RequestError, match="has rank 32"):
        running(engine, lambda: engine.load_adapter("fr", paths["fr"]))


def test_a_release_that_leaves_adapters_out_of_account_is_found_out(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_STANDIN_DEAF", "1")
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "fr")
    with pytest.raises(RequestError, match="it changes nothing: either its weights do not, or this release ignores"):
        running(engine, lambda: engine.load_adapter("fr", paths["fr"]))


def test_names_are_taken_once_and_unknown_ones_are_an_error(standin: Path, folder: Path) -> None:
    engine = load(folder, enable_lora=True)
    paths = adapters(folder, "fr")

    async def scenario() -> None:
        await engine.load_adapter("fr", paths["fr"])
        with pytest.raises(ExistsError, match="'fr' is loaded from"):
            await engine.load_adapter("fr", paths["fr"])
        with pytest.raises(NotFoundError, match=r"'frr' is not loaded(?s:.*)Loaded: fr"):
            await answer(engine, request(adapter="frr"))
        with pytest.raises(NotFoundError, match="'frr' is not loaded"):
            await engine.unload_adapter("frr")

    running(engine, scenario)


def test_engines_that_were_built_with_room_for_adapters_serve_them_again(
    standin: Path, folder: Path, cache: Path
) -> None:
    paths, found = adapters(folder, "fr"), []

    for options in ({"enable_lora": True}, {"enable_lora": True, "max_loras": 2}, {}):
        engine = load(folder, backend="tensorrt", **options)

        async def scenario(engine: Any = engine) -> list[int]:
            if engine._arguments.n_adapters:
                await engine.load_adapter("fr", paths["fr"])
                return ids_of(await answer(engine, request(adapter="fr")))
            return ids_of(await answer(engine, request()))

        found.append(running(engine, scenario))
    assert found[0] == found[1] != found[2]
    assert len(list(cache.iterdir())) == 2  # how many fit is nothing that a build knows


def test_engines_compiled_ahead_of_time_have_room_for_adapters_where_they_were_asked_for(
    standin: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "compiled").mkdir()
    options = TrtllmConfig(enable_lora=True, max_lora_rank=8)
    lmi_trtllm.lmi_compile_artifacts(
        detect(folder), options, str(tmp_path / "compiled"), lambda stage, fraction=None: None
    )
    engine, paths = load(tmp_path / "compiled", enable_lora=True), adapters(folder, "fr", rank=8)
    large = write_tiny_adapter(tmp_path / "large", folder, rank=16)

    async def scenario() -> list[list[int]]:
        await engine.load_adapter("fr", paths["fr"])
        with pytest.raises(RequestError, match="has rank 16, and max_lora_rank is 8"):
            await engine.load_adapter("large", str(large))
        return [ids_of(await answer(engine, request(adapter=name))) for name in ("", "fr")]

    plain, changed = running(engine, scenario)
    assert plain != changed


def test_a_lora_request_without_room_for_adapters_is_refused_by_the_stand_in(standin: Path, folder: Path) -> None:
    from tensorrt_llm.executor.request import LoRARequest

    engine = load(folder)
    paths = adapters(folder, "fr")
    engine._lora_request = lambda adapter: LoRARequest("fr", 1, paths["fr"])
    with pytest.raises(Exception, match="without enable_lora"):
        running(engine, lambda: answer(engine, request()))
