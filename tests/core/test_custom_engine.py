# SPDX-License-Identifier: Apache-2.0
"""A model's own function as an engine, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from lmi.api import (
    BackendConfig,
    EngineDeadError,
    GenerationRequest,
    LmiError,
    RequestError,
    SamplingParams,
    SupportsTasks,
    TaskPart,
    TaskRequest,
    UnsupportedError,
)
from lmi.custom.engine import CustomEngine, load_custom
from lmi.custom.inputs import input_of
from lmi.custom.model_file import Kind, ModelFile
from tests.limits import limit_s

CODE = """
import threading
from djl_python import Output

gate, entered = threading.Event(), threading.Event()
threads = {threading.get_ident()}

def handle(inputs):
    threads.add(threading.get_ident())
    if inputs.is_empty():
        return None
    what = inputs.get_as_string()
    if what == "wait":
        entered.set()
        gate.wait()
    if what == "stream":
        return Output().add_stream_content(iter("abc"), output_formatter=None)
    if what == "threads":
        return Output().add(len(threads))
    return Output().add(what)
"""

Play = Callable[[Callable[[CustomEngine], Awaitable[None]]], None]


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("model", None)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a scenario with a loaded engine, and close it."""
    (tmp_path / "model.py").write_text(CODE)

    def run(scenario: Callable[[CustomEngine], Awaitable[None]]) -> None:
        stages: list[str] = []
        file = ModelFile(path=str(tmp_path / "model.py"), kind=Kind.CUSTOM, function="handle")
        engine = load_custom(file, BackendConfig().model_dump(), lambda stage, fraction=None: stages.append(stage))
        assert stages == ["import model.py", "handle loads the model"]

        async def main() -> None:
            try:
                await asyncio.wait_for(scenario(engine), limit_s(20))
            finally:
                sys.modules["model"].gate.set()
                await engine.close()
                await engine.close()
                await asyncio.to_thread(engine._thread.join)

        asyncio.run(main())

    return run


async def ask(engine: CustomEngine, body: str) -> list[TaskPart]:
    return [part async for part in engine.run_task(TaskRequest(request_id=body, body=body.encode()))]


async def entered() -> None:
    await asyncio.to_thread(sys.modules["model"].entered.wait)


def test_it_has_the_ability_and_one_slot(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        assert isinstance(engine, SupportsTasks)
        assert engine.limits.max_batch_size == 1

    play(scenario)


def test_everything_of_the_file_runs_in_one_thread(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        await ask(engine, "a")
        assert (await ask(engine, "threads"))[0].body == b"1"

    play(scenario)


def test_a_stream_is_a_head_and_its_pieces(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        head, *pieces = await ask(engine, "stream")
        assert (head.is_stream, head.status, head.body) == (True, 200, b"")
        assert [piece.body for piece in pieces] == [b"a", b"b", b"c"]

    play(scenario)


def test_a_second_call_waits_for_the_first(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        first = asyncio.ensure_future(ask(engine, "wait"))
        await entered()
        second = asyncio.ensure_future(ask(engine, "b"))
        await asyncio.sleep(0)
        sys.modules["model"].gate.set()
        assert [part.body for part in await first + await second] == [b"wait", b"b"]

    play(scenario)


def test_a_running_function_counts_as_steps_so_that_it_never_counts_as_stalled(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        assert engine.stats().n_steps == engine.stats().n_steps == 0
        running = asyncio.ensure_future(ask(engine, "wait"))
        await entered()
        stats = [engine.stats(), engine.stats()]
        assert [each.n_running for each in stats] == [1, 1]
        assert stats[0].n_steps < stats[1].n_steps
        sys.modules["model"].gate.set()
        await running
        assert engine.stats().n_running == 0

    play(scenario)


def test_a_call_cancelled_while_it_computes_is_over_when_it_returns(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        running = asyncio.ensure_future(ask(engine, "wait"))
        await entered()
        running.cancel()
        await asyncio.sleep(0)
        assert not running.done()
        sys.modules["model"].gate.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert (await ask(engine, "next"))[0].body == b"next"

    play(scenario)


def test_a_call_cancelled_while_it_waits_is_never_made(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        first = asyncio.ensure_future(ask(engine, "wait"))
        await entered()
        second = asyncio.ensure_future(ask(engine, "stream"))
        await asyncio.sleep(0)
        second.cancel()
        sys.modules["model"].gate.set()
        assert (await first)[0].body == b"wait"
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (engine.stats().n_running, engine.stats().n_waiting) == (0, 0)

    play(scenario)


def test_it_takes_no_tokens(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        request = GenerationRequest(request_id="r", prompt_ids=[1], sampling=SamplingParams(max_tokens=1))
        with pytest.raises(UnsupportedError, match="takes no tokens"):
            engine.generate(request)

    play(scenario)


def test_its_health_is_that_of_its_thread(play: Play) -> None:
    async def scenario(engine: CustomEngine) -> None:
        await engine.check_health()
        await engine.close()
        await asyncio.to_thread(engine._thread.join)
        with pytest.raises(EngineDeadError):
            await engine.check_health()

    play(scenario)


def test_a_function_that_raises_is_an_error_of_its_request(play: Play, tmp_path: Path) -> None:
    async def scenario(engine: CustomEngine) -> None:
        task = TaskRequest(request_id="r", body=b"\xff")
        with pytest.raises(LmiError, match=r"handle of model\.py raised UnicodeDecodeError") as error:
            [part async for part in engine.run_task(task)]
        assert error.value.code == "script.raised"
        assert (await ask(engine, "a"))[0].body == b"a"

    play(scenario)


# --------------------------------------------------------------------------------------------- from HTTP to an Input


def test_no_header_replaces_an_option() -> None:
    task = TaskRequest(request_id="r", headers={"model_id": "forged", "accept": "x"}, body=b"b")
    inputs = input_of(task, {"model_id": "mine"}, allows_override=False)
    assert (inputs.get_property("model_id"), inputs.get_property("Accept")) == ("mine", "x")


def test_a_header_names_a_function_only_where_that_is_allowed() -> None:
    task = TaskRequest(request_id="r", headers={"handler": "other"})
    with pytest.raises(RequestError, match="ALLOW_REQUEST_HANDLER_OVERRIDE=true") as error:
        input_of(task, {}, allows_override=False)
    assert error.value.code == "request.function-override"
    inputs = input_of(task, {}, allows_override=True)
    assert (inputs.get_function_name(), inputs.get_property("handler")) == ("other", None)


def test_a_query_without_a_body_is_content() -> None:
    inputs = input_of(TaskRequest(request_id="r", query="q=a%20b&empty="), {}, allows_override=False)
    assert (inputs.is_empty(), inputs.get_as_string("q"), inputs.get_as_bytes("empty")) == (False, "a b", b"")


@pytest.mark.parametrize("body", [b"[1]", b'{"a": "b=c"}', b" [1]\n"])
def test_json_under_the_type_that_curl_sends_is_data(body: bytes) -> None:
    task = TaskRequest(request_id="r", headers={"content-type": "application/x-www-form-urlencoded"}, body=body)
    assert input_of(task, {}, allows_override=False).get_as_bytes("data") == body
