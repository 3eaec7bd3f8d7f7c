# SPDX-License-Identifier: Apache-2.0
"""The engine that `lmi new` writes, driven by libraries that die, hang, queue and refuse as real ones do."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from lmi.api import (
    EngineDeadError,
    Finish,
    FinishReason,
    GenerationRequest,
    RequestError,
    SamplingParams,
    TokenChunk,
    Usage,
)
from lmi.cli.new import write_project
from tests.limits import limit_s

PROMPT = [10, 11, 12]


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmi_acme"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_project("acme", tmp_path_factory.mktemp("acme"), kind="engine") / "src"


@pytest.fixture(scope="module")
def acme(source):
    """The modules of the project, as it is written."""
    forget()
    sys.path.insert(0, str(source))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"lmi_acme.{name}") for name in ("engine", "config")})
    finally:
        sys.path.remove(str(source))
        forget()


@pytest.fixture
def make(acme, monkeypatch):
    """Builds an engine, whose library is the scaffold's with some methods replaced."""

    def build(library_methods=None, **options):
        library = type("Library", (acme.engine.EchoLibrary,), library_methods or {})
        monkeypatch.setattr(acme.engine, "EchoLibrary", library)
        return acme.engine.AcmeEngine(acme.config.AcmeConfig(**options))

    return build


@pytest.fixture
def gate(acme):
    """A step that waits until it is let go on, and then fails if it is told to."""
    gate = SimpleNamespace(entered=threading.Event(), open=threading.Event(), fails=False)

    def step(library):
        gate.entered.set()
        gate.open.wait(limit_s(30))
        if gate.fails:
            raise RuntimeError("the device is gone")
        return super(type(library), library).step()

    gate.methods = {"step": step}
    yield gate
    gate.open.set()


def request(name="r", max_tokens=7, *, resumed=(), **sampling):
    return GenerationRequest(
        request_id=name,
        prompt_ids=PROMPT,
        resumed_ids=list(resumed),
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
    )


async def chunks_of(engine, one):
    return [chunk async for chunk in engine.generate(one)]


def ids_of(chunks):
    return [token_id for chunk in chunks for token_id in chunk.ids]


def play(engine, scenario):
    """Run a scenario, and close the engine whatever becomes of it."""

    async def main():
        try:
            return await asyncio.wait_for(scenario(engine), limit_s(5))
        finally:
            await asyncio.wait_for(engine.close(), limit_s(5))

    return asyncio.run(main())


async def reaches(event):
    assert await asyncio.to_thread(event.wait, limit_s(5)), "it never came to that"


def test_requests_that_run_or_arrive_while_a_step_fails_hear_of_it(make, gate):
    async def scenario(engine):
        running = asyncio.ensure_future(chunks_of(engine, request("running")))
        await reaches(gate.entered)
        arriving = asyncio.ensure_future(chunks_of(engine, request("arriving")))
        await asyncio.sleep(0)  # it has begun: its order lies in the queue
        gate.fails = True
        gate.open.set()
        for ended in await asyncio.gather(running, arriving, return_exceptions=True):
            assert isinstance(ended, EngineDeadError)
            assert (ended.code, "the device is gone" in str(ended)) == ("engine.died", True)
        with pytest.raises(EngineDeadError, match="the device is gone"):
            await engine.check_health()

    play(make(gate.methods), scenario)


def test_a_request_between_the_first_look_and_the_death_of_the_engine_hears_of_it(make):
    class DeadlyLimits:
        """Whoever reads the limit does so while the engine dies."""

        def __init__(self, engine, thread):
            self.engine, self.thread = engine, thread

        @property
        def max_context_tokens(self):
            self.engine.die()
            self.thread.join(limit_s(5))
            return 100

    async def scenario(engine):
        [thread] = [each for each in threading.enumerate() if each.name == "acme-steps"]
        engine.limits = DeadlyLimits(engine, thread)
        with pytest.raises(EngineDeadError, match="the device is gone"):
            await chunks_of(engine, request())
        assert not thread.is_alive()

    play(make(), scenario)


def test_open_streams_and_new_requests_hear_that_the_engine_closes_though_its_step_goes_on(make, gate):
    async def scenario(engine):
        running = asyncio.ensure_future(chunks_of(engine, request("running")))
        await reaches(gate.entered)
        queued = asyncio.ensure_future(chunks_of(engine, request("queued")))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        with pytest.raises(EngineDeadError, match="the engine is closed"):
            await chunks_of(engine, request("late"))
        for ended in await asyncio.gather(running, queued, return_exceptions=True):
            assert isinstance(ended, EngineDeadError)
            assert ended.code == "engine.closed"
        assert not closing.done(), "it returned while the library still ran"
        gate.open.set()
        await closing

    play(make(gate.methods), scenario)


def test_closing_waits_no_longer_than_its_limit_for_a_step_that_hangs(make, gate, acme, monkeypatch):
    monkeypatch.setattr(acme.engine, "CLOSE_WITHIN_S", 0.02)

    async def scenario(engine):
        stream = asyncio.ensure_future(chunks_of(engine, request()))
        await reaches(gate.entered)
        await engine.close()
        assert not gate.open.is_set()
        with pytest.raises(EngineDeadError, match="the engine is closed"):
            await stream

    play(make(gate.methods), scenario)


def test_a_process_ends_though_a_step_of_its_library_hangs(source, tmp_path):
    script = tmp_path / "hang.py"
    script.write_text(
        "import asyncio, threading\n"
        "from lmi.api import EngineDeadError, GenerationRequest, SamplingParams\n"
        "from lmi_acme import engine\n"
        "from lmi_acme.config import AcmeConfig\n"
        "entered = threading.Event()\n"
        "engine.CLOSE_WITHIN_S = 0.02\n"
        "engine.EchoLibrary.step = lambda library: entered.set() or threading.Event().wait()\n"
        "async def main():\n"
        "    acme = engine.AcmeEngine(AcmeConfig())\n"
        "    request = GenerationRequest(request_id='r', prompt_ids=[1], sampling=SamplingParams(max_tokens=3))\n"
        "    chunk = asyncio.ensure_future(acme.generate(request).__anext__())\n"
        "    await asyncio.to_thread(entered.wait)\n"
        "    await acme.close()\n"
        "    try:\n"
        "        await chunk\n"
        "    except EngineDeadError as error:\n"
        "        print(error.code)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=limit_s(20),
        env={"PYTHONPATH": str(source)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "engine.closed\n"), done.stderr


@pytest.mark.parametrize(
    ("n_resumed", "stop_ids", "finish"),
    [
        (3, (), Finish(FinishReason.LENGTH)),
        (4, (), Finish(FinishReason.LENGTH)),
        (2, (11,), Finish(FinishReason.STOP_TOKEN, 11)),
        (3, (12,), Finish(FinishReason.STOP_TOKEN, 12)),
    ],
)
def test_a_request_that_resumes_with_all_its_ids_only_ends(make, n_resumed, stop_ids, finish):
    resumed = (PROMPT * 2)[:n_resumed]

    async def scenario(engine):
        [chunk] = await chunks_of(engine, request(max_tokens=3, resumed=resumed, stop_token_ids=stop_ids))
        assert (chunk.ids, chunk.finish, chunk.usage) == ([], finish, Usage(3, n_resumed))
        assert engine.stats().n_steps == 0

    play(make(), scenario)


def test_a_stop_id_before_the_last_resumed_one_or_below_min_tokens_ends_nothing(make):
    async def scenario(engine):
        for one in (
            request(resumed=PROMPT[:2], stop_token_ids=(10,), max_tokens=3),
            request(resumed=PROMPT[:2], stop_token_ids=(11,), max_tokens=3, min_tokens=2),
        ):
            assert ids_of(await chunks_of(engine, one)) == [12]

    play(make(), scenario)


def test_a_library_that_starts_requests_in_its_steps_is_stepped(make):
    def step(library):
        library.n_started = min(len(library._sequences), library._n_slots)
        return super(type(library), library).step()

    queueing = {"step": step, "n_started": 0, "n_running": property(lambda library: library.n_started)}

    async def scenario(engine):
        assert ids_of(await chunks_of(engine, request(max_tokens=4))) == [10, 11, 12, 10]

    play(make(queueing), scenario)


def test_a_request_that_the_library_rejects_fails_alone_and_is_not_aborted(make):
    aborted = []

    def add(library, sequence):
        if sequence.key == "bad":
            raise ValueError("no tokens like these")
        super(type(library), library).add(sequence)

    def abort(library, key):
        aborted.append(key)
        super(type(library), library).abort(key)

    async def scenario(engine):
        neighbour = engine.generate(request("neighbour", 2000))
        await neighbour.__anext__()
        with pytest.raises(RequestError, match=r"^request\.refused-by-library: .* ValueError: no tokens like these"):
            await chunks_of(engine, request("bad"))
        for _ in range(3):
            await neighbour.__anext__()
        await neighbour.aclose()
        assert len(ids_of(await chunks_of(engine, request("next", 3)))) == 3
        assert aborted == ["neighbour"]
        await engine.check_health()

    play(make({"add": add, "abort": abort}), scenario)


def test_what_a_library_still_reports_of_a_request_that_left_is_dropped(make, acme):
    gone = []

    def abort(library, key):
        gone.append(key)
        super(type(library), library).abort(key)

    def step(library):
        late = [acme.engine.Produced(key, 5, 9, "length") for key in gone]
        return [*late, *super(type(library), library).step()]

    async def scenario(engine):
        left = engine.generate(request("left", 2000))
        await left.__anext__()
        await left.aclose()
        assert ids_of(await chunks_of(engine, request("next", 4))) == [10, 11, 12, 10]
        assert gone == ["left"]
        await engine.check_health()

    play(make({"abort": abort, "step": step}), scenario)


def test_what_comes_for_a_reader_whose_loop_is_closed_is_dropped(acme):
    loop = asyncio.new_event_loop()
    stream = acme.engine.Stream(request(), loop, asyncio.Queue())
    loop.close()
    stream.put(TokenChunk([1]))
    assert stream.chunks.empty()
