# SPDX-License-Identifier: Apache-2.0
"""The wire between server and worker: frames, errors on their way, calls, and two ends that do not fit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmi.api import (
    CONTRACT_VERSION,
    EngineDeadError,
    EngineLoadError,
    EngineStats,
    Finish,
    FinishReason,
    GenerationRequest,
    LmiError,
    ModelArtifacts,
    Problem,
    ProblemsError,
    RequestError,
    SamplingParams,
    Severity,
    TokenChunk,
    TokenLogprob,
    UnsupportedError,
    Usage,
    errors,
)
from lmi.workers.flight import Flight
from lmi.workers.program import Program
from lmi.workers.wire import (
    Channel,
    Chunks,
    Commands,
    ErrorReport,
    FromServer,
    FromWorker,
    Heartbeat,
    Hello,
    Load,
    Loading,
)
from lmi.workers.worker import Worker, WorkerState
from tests.core.distributions import Distributions
from tests.limits import limit_s

# ------------------------------------------------------------------------------------------------------------- frames


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False


def channel(received: list[Any], message_type: Any = FromWorker, stream_type: Any = Chunks) -> Channel:
    return Channel(
        message_type,
        stream_type,
        on_message=received.append,
        on_stream=received.append,
        on_closed=lambda reason: received.append(("closed", reason)),
    )


CHUNK = TokenChunk(
    [1, 70_000],
    [TokenLogprob(1, -0.5, 1, ((1, -0.5), (2, -1.0))), TokenLogprob(70_000, -3.0)],
    [None, TokenLogprob(4, -2.0)],
    Finish(FinishReason.STOP_TOKEN, 70_000),
    Usage(2, 2, 1),
)
SENT: list[Any] = [
    Hello(CONTRACT_VERSION, "1.0", 7, "/bin/python"),
    [("a", TokenChunk([5])), ("b", CHUNK)],
    Loading("load weights", 0.5),
    [],
    Heartbeat(EngineStats(n_running=2, n_steps=9)),
    [("a", TokenChunk([], finish=Finish(FinishReason.DEADLINE)))],
]


def encoded() -> bytes:
    pipe, sender = Pipe(), channel([])
    sender.connection_made(pipe)
    for each in SENT:
        if isinstance(each, list):
            sender.send_stream(each)
        else:
            sender.send(each)
    return pipe.written


def test_frames_arrive_whole_and_in_order_wherever_the_bytes_are_cut() -> None:
    data = encoded()
    for cut in range(len(data) + 1):
        received: list[Any] = []
        receiver = channel(received)
        receiver.data_received(data[:cut])
        receiver.data_received(data[cut:])
        assert received == SENT, f"cut at byte {cut}"


def test_frames_arrive_whole_and_in_order_byte_by_byte() -> None:
    received: list[Any] = []
    receiver = channel(received)
    for byte in encoded():
        receiver.data_received(bytes([byte]))
    assert received == SENT


def test_a_frame_is_given_as_soon_as_its_last_byte_is_here() -> None:
    received: list[Any] = []
    receiver = channel(received)
    data = encoded()
    size = int.from_bytes(data[:4], "little") + 5
    receiver.data_received(data[: size - 1])
    assert received == []
    receiver.data_received(data[size - 1 : size])
    assert received == SENT[:1]


def test_commands_arrive_with_every_field_of_a_request() -> None:
    sampling = SamplingParams(max_tokens=5, temperature=0.5, seed=2**64 - 1, logit_bias={3: -1.0}, stop_token_ids=(9,))
    request = GenerationRequest(
        request_id="r", prompt_ids=[1, 2], sampling=sampling, resumed_ids=[3], adapter="french", deadline_s=1.5
    )
    commands = Commands([[request], []], ["x"])
    received: list[Any] = []
    pipe, sender = Pipe(), channel([], FromServer, Commands)
    sender.connection_made(pipe)
    sender.send_stream(commands)
    channel(received, FromServer, Commands).data_received(pipe.written)
    assert received == [commands]


def test_what_is_sent_before_and_after_a_connection_goes_nowhere() -> None:
    class Closing(Pipe):
        def is_closing(self) -> bool:
            return True

    sender, pipe = channel([]), Closing()
    sender.send(Loading("x"))
    sender.connection_made(pipe)
    sender.send(Loading("x"))
    assert (pipe.written, sender.is_open) == (b"", False)


# ------------------------------------------------------------------------------------------------------------- errors


def all_errors() -> list[type[LmiError]]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LmiError)]
    assert len(kinds) > 15
    return kinds


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_arrives_as_it_was_raised(kind: type[LmiError]) -> None:
    problem = Problem(code="a.b", message="m", hint="h", path="p", source="s", severity=Severity.WARNING)
    details: tuple[Any, ...] = ((problem, problem), "the hint") if issubclass(kind, ProblemsError) else ("the hint",)
    error = kind("some.code", "what happened", *details)
    report = msgspec.msgpack.decode(msgspec.msgpack.encode(ErrorReport.of(error)), type=ErrorReport)
    arrived = report.error()
    assert type(arrived) is kind
    assert (arrived.code, arrived.message, arrived.hint) == ("some.code", "what happened", "the hint")
    assert str(arrived) == str(error)
    assert getattr(arrived, "problems", None) == getattr(error, "problems", None)


def test_an_error_of_a_plugins_own_kind_arrives_as_the_nearest_known_one() -> None:
    class BadPictureError(RequestError):
        pass

    arrived = ErrorReport.of(BadPictureError("acme.picture", "no picture")).error()
    assert (type(arrived), arrived.code) == (RequestError, "acme.picture")


def test_any_other_exception_arrives_with_its_type_and_text() -> None:
    arrived = ErrorReport.of(ZeroDivisionError("division by zero")).error()
    assert (type(arrived), arrived.code) == (EngineDeadError, "engine.failed")
    assert "ZeroDivisionError: division by zero" in str(arrived)


@pytest.mark.parametrize("name", ["NoSuchError", "Problem", "Any", "__name__", "LmiErrors"])
def test_a_report_of_an_unknown_kind_is_an_engine_failure(name: str) -> None:
    assert type(ErrorReport(type=name, code="c", message="m").error()) is EngineDeadError


# --------------------------------------------------------------------------------------- a worker in its own process


@pytest.fixture(scope="module")
def faulty_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parents[1] / "faults" / "faulty_backend.py").read_text()
    Distributions(folder).install("lmi-faulty", "lmi.backends", "faulty", code)
    return folder


def with_worker(
    scenario: Callable[[Worker], Awaitable[None]],
    folder: Path,
    *,
    path: Path | None = None,
    python: str = sys.executable,
) -> Worker:
    """Run a scenario with a ready worker (or one that ended before it was ready); the worker, ended."""

    async def main() -> Worker:
        settled = asyncio.Event()

        def on_state(worker: Worker) -> None:
            if worker.state is not WorkerState.STARTING:
                settled.set()

        worker = Worker(
            label="model/0",
            load=Load(
                model="model", backend="faulty", artifacts=ModelArtifacts(), options={}, heartbeat_interval_s=0.05
            ),
            program=Program(python),
            environ={"PYTHONPATH": str(path)} if path else {},
            socket_path=folder / "worker.sock",
            on_state=on_state,
            on_cleared=lambda flight: None,
            on_room=lambda: None,
        )
        life = asyncio.create_task(worker.run())
        try:
            await asyncio.wait_for(settled.wait(), limit_s(30))
            await asyncio.wait_for(scenario(worker), limit_s(30))
        finally:
            await worker.close()
            await life
        return worker

    return asyncio.run(main())


def test_a_call_reaches_the_ability_and_its_result_comes_back(tmp_path: Path, faulty_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        assert worker.abilities == ["adapters", "pinned-adapters"]
        assert await worker.call("adapters", "list_adapters") == []
        for name in ("french", "german"):
            assert await worker.call("adapters", "load_adapter", name, str(tmp_path)) is None
        await worker.call("adapters", "unload_adapter", "french")
        assert await worker.call("adapters", "list_adapters") == ["german"]

    worker = with_worker(scenario, tmp_path, path=faulty_path)
    assert worker.exit is not None
    assert worker.exit.code == 0, "closing a worker lets its process end by itself"


def test_an_error_of_a_call_comes_back_with_its_type(tmp_path: Path, faulty_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        with pytest.raises(EngineLoadError, match=r"adapter\.missing: there is no folder /no/such"):
            await worker.call("adapters", "load_adapter", "french", "/no/such")
        with pytest.raises(EngineDeadError, match="KeyError: 'nobody'"):
            await worker.call("adapters", "unload_adapter", "nobody")
        with pytest.raises(EngineDeadError, match="TypeError"):
            await worker.call("adapters", "unload_adapter")
        assert await worker.call("adapters", "list_adapters") == [], "the worker goes on"

    with_worker(scenario, tmp_path, path=faulty_path)


@pytest.mark.parametrize(
    ("ability", "method"),
    [
        ("embedding", "embed"),
        ("telepathy", "guess"),
        ("adapters", "obey"),
        ("adapters", "close"),
        ("adapters", "mro"),
        ("adapters", "__init__"),
        ("adapters", "_is_protocol"),
    ],
)
def test_what_is_no_method_of_an_ability_is_refused(
    tmp_path: Path, faulty_path: Path, ability: str, method: str
) -> None:
    async def scenario(worker: Worker) -> None:
        with pytest.raises(
            UnsupportedError, match=r"ability\.missing: .*" + method if ability == "adapters" else ability
        ):
            await worker.call(ability, method)

    with_worker(scenario, tmp_path, path=faulty_path)


def test_calls_of_a_worker_that_dies_fail(tmp_path: Path, faulty_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        worker.kill()
        with pytest.raises(EngineDeadError, match="worker model/0 killed by SIGKILL"):
            await worker.call("adapters", "list_adapters")

    with_worker(scenario, tmp_path, path=faulty_path)


def test_a_request_that_cannot_be_encoded_fails_alone(tmp_path: Path, faulty_path: Path) -> None:
    """An extension can put any number into a request."""

    async def scenario(worker: Worker) -> None:
        ends: dict[str, Any] = {}
        done = asyncio.Event()

        def flight(name: str, **fields: Any) -> Flight:
            request = GenerationRequest(
                request_id=name, prompt_ids=[65], sampling=SamplingParams(max_tokens=1, **fields)
            )

            def end(value: Any) -> None:
                ends[name] = value
                if len(ends) == 3:
                    done.set()

            return Flight(request, end, end)

        worker.submit([flight("before")])
        worker.submit([flight("bad", stop_token_ids=(2**64,))])
        await asyncio.sleep(0)
        worker.submit([flight("after")])
        await done.wait()
        assert type(ends["bad"]) is RequestError
        assert (ends["before"].ids, ends["after"].ids) == ([65], [65])
        assert (worker.flights, worker.n_reserved_tokens) == ({}, 0)

    with_worker(scenario, tmp_path, path=faulty_path)


# ------------------------------------------------------------------------------------------------ two ends that differ

FAKE_WORKER = """#!{python}
import os, socket, struct, sys
import msgspec
from lmi.workers.wire import Hello
hello = msgspec.msgpack.encode(Hello({version}, "9.9.9", os.getpid(), sys.executable))
wire = socket.socket(socket.AF_UNIX)
wire.connect(sys.argv[-1])
wire.sendall(struct.pack("<IB", len(hello), 0) + hello)
answer = wire.recv(1000)
print("was sent", len(answer), flush=True)
"""


def test_a_worker_of_another_contract_is_refused_with_both_versions(tmp_path: Path) -> None:
    other = CONTRACT_VERSION + 41
    fake = tmp_path / "python"
    fake.write_text(FAKE_WORKER.format(python=sys.executable, version=other))
    fake.chmod(0o755)

    async def scenario(worker: Worker) -> None:
        assert worker.state is WorkerState.DEAD

    worker = with_worker(scenario, tmp_path, python=str(fake))
    assert isinstance(worker.error, EngineLoadError)
    assert worker.error.code == "worker.other-contract"
    assert f"speaks contract {other}" in worker.error.message
    assert f"speaks {CONTRACT_VERSION}" in worker.error.message
    assert "9.9.9" in worker.error.message


def test_a_worker_of_the_same_contract_is_told_what_to_load(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE_WORKER.format(python=sys.executable, version=CONTRACT_VERSION))
    fake.chmod(0o755)

    async def scenario(worker: Worker) -> None:
        assert worker.state is WorkerState.DEAD

    worker = with_worker(scenario, tmp_path, python=str(fake))
    assert worker.error is None
    assert worker.exit is not None
    assert int(worker.exit.last_lines[-1].removeprefix("was sent ")) > 50


def test_the_socket_is_gone_when_the_worker_ended(tmp_path: Path, faulty_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        assert (tmp_path / "worker.sock").is_socket()

    with_worker(scenario, tmp_path, path=faulty_path)
    assert list(tmp_path.iterdir()) == []
