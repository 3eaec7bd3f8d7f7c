# SPDX-License-Identifier: Apache-2.0
"""The worker process: connect to the server, load one engine, serve it until told to close.

Started by the server as ``python -m lmi.workers.main SOCKET``, possibly under another Python (option.pythonExecutable).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

import lmi
from lmi.api.abilities import ABILITIES, REPEATABLE
from lmi.api.backend import CONTRACT_VERSION, Progress
from lmi.api.engine import Engine
from lmi.api.errors import EngineDeadError, OutOfMemoryError, UnsupportedError
from lmi.custom.model_file import Kind
from lmi.garbage import settle
from lmi.threads import in_own_thread
from lmi.workers import generate
from lmi.workers.adapters import load_adapters
from lmi.workers.drive import Drive, GenerateBatch
from lmi.workers.process import signal_at_parents_death
from lmi.workers.wire import (
    Call,
    CancelCall,
    Channel,
    Close,
    Commands,
    Dying,
    ErrorReport,
    Failed,
    FromServer,
    Heartbeat,
    Hello,
    Load,
    Loading,
    Ready,
    Reply,
)

if TYPE_CHECKING:
    from lmi.plugins import Plugins

EXIT_ENGINE_DEAD = 70
"""The engine died or could not be loaded; the reason went over the wire (sysexits.h: EX_SOFTWARE)."""

_LOG = logging.getLogger(__name__)
_LAST_WORDS_S = 5.0


class WorkerMain:
    """State of one worker process."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int] = self.loop.create_future()
        self._closed: asyncio.Future[None] = self.loop.create_future()
        self._engine: Engine | None = None
        self._drive: Drive | None = None
        self._keep: set[asyncio.Task[None]] = set()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self.channel = Channel(
            FromServer, Commands, on_message=self._on_message, on_stream=self._on_stream, on_closed=self._on_closed
        )

    async def run(self, socket_path: str) -> int:
        await self.loop.create_unix_connection(lambda: self.channel, socket_path)
        self.channel.send(Hello(CONTRACT_VERSION, lmi.__version__, os.getpid(), sys.executable))
        code = await self._done
        self.channel.close()
        await asyncio.wait([self._closed], timeout=_LAST_WORDS_S)
        return code

    def _on_closed(self, _: Exception | None) -> None:
        if not self._done.done():
            # The server is gone: nobody can be answered, so nothing here is worth finishing.
            os.killpg(0, signal.SIGKILL)
        self._closed.set_result(None)

    def _on_stream(self, commands: Commands) -> None:
        if self._drive is not None:
            self._drive.obey(commands)

    def _on_message(self, message: FromServer) -> None:
        if isinstance(message, Load):
            self._spawn(self._load(message))
        elif isinstance(message, Call):
            self._start_call(message)
        elif isinstance(message, CancelCall):
            if message.call_id in self._calls:
                self._calls[message.call_id].cancel()
        elif isinstance(message, Close):
            self._spawn(self._close())

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.loop.create_task(coroutine)
        self._keep.add(task)
        task.add_done_callback(self._keep.discard)
        return task

    async def _load(self, load: Load) -> None:
        def progress(stage: str, fraction: float | None = None) -> None:
            self.loop.call_soon_threadsafe(self.channel.send, Loading(stage, fraction))

        try:
            engine, generate_batch = await in_own_thread(lambda: self.build(load, progress))
            self._engine = engine
            lost_adapters = await load_adapters(engine, load, self.channel.send)
            self._drive = Drive(
                engine,
                generate_batch,
                send=self.channel.send_stream,
                fail=lambda request_id, report: self.channel.send(Failed(request_id, report)),
                on_dead=self.die,
            )
            abilities = [name for name, protocol in ABILITIES.items() if isinstance(engine, protocol)]
            settle()
            self.channel.send(Ready(engine.limits, abilities, lost_adapters))
        except (Exception, SystemExit) as error:
            _LOG.exception("the engine could not be loaded")
            self.die(error)
            return
        await self._beat(engine, load.heartbeat_interval_s)

    def build(self, load: Load, progress: Progress) -> tuple[Engine, GenerateBatch]:
        """Load the engine, and find what generates on it; called in a thread of its own.

        Raises:
            Exception: whatever stopped it.
        """
        return _build(load, progress)

    async def _beat(self, engine: Engine, interval_s: float) -> None:
        try:
            while True:
                await engine.check_health()
                self.channel.send(Heartbeat(engine.stats()))
                await asyncio.sleep(interval_s)
        except Exception as error:
            if not isinstance(error, EngineDeadError):
                _LOG.exception("the engine cannot say how it is")
            self.die(error)

    def _start_call(self, call: Call) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            del self._calls[call.call_id]
            if task.cancelled():
                self.channel.send(Reply(call.call_id))

        self._calls[call.call_id] = task = self._spawn(self._call(call))
        task.add_done_callback(ended)

    async def _call(self, call: Call) -> None:
        try:
            protocol = ABILITIES.get(call.ability)
            if self._engine is None or protocol is None or not isinstance(self._engine, protocol):
                raise UnsupportedError("ability.missing", f"this backend has no ability {call.ability!r}")
            if call.method not in vars(protocol) or call.method.startswith("_"):
                raise UnsupportedError("ability.missing", f"ability {call.ability!r} has no method {call.method!r}")
            arguments = _arguments(getattr(protocol, call.method), call.args)
            result = getattr(self._engine, call.method)(*arguments)
            if inspect.isasyncgen(result):
                async with contextlib.aclosing(result):
                    async for each in result:
                        self.channel.send(Reply(call.call_id, each, is_last=False))
                self.channel.send(Reply(call.call_id))
            else:
                self.channel.send(Reply(call.call_id, await result))
        except Exception as error:
            if call.ability in REPEATABLE and isinstance(error, EngineDeadError | OutOfMemoryError):
                self.die(error)  # like a generation's: what was called goes on in another worker
            else:
                self.channel.send(Reply(call.call_id, error=ErrorReport.of(error)))

    async def _close(self) -> None:
        if self._engine is not None:
            with contextlib.suppress(Exception):
                await self._engine.close()
        self._finish(0)

    def die(self, error: BaseException) -> None:
        """Tell the server why this worker ends, and end."""
        if self._done.done():
            return
        self.channel.send(Dying(ErrorReport.of(error)))
        self._finish(EXIT_ENGINE_DEAD)

    def _finish(self, code: int) -> None:
        if not self._done.done():
            self._done.set_result(code)


def _build(load: Load, progress: Progress) -> tuple[Engine, GenerateBatch]:
    """Load the engine, and find what generates on it."""
    from lmi.loading import load_engine

    file, plugins = load.model_file, discovered(load, progress)
    if file is not None and file.kind is Kind.CUSTOM:
        from lmi.custom.engine import load_custom

        return load_custom(file, load.options, progress), plugins.extension_hooks.lmi_generate_batch
    engine = load_engine(plugins, load.backend, load.artifacts, load.options, progress)
    return engine, plugins.hooks(load.backend).lmi_generate_batch


def discovered(load: Load, progress: Progress) -> Plugins:
    """What this process needs to load a model and to generate with it: backend, extensions, the model's own hooks.

    Args:
        load: the model.
        progress: told that it begins.
    Raises:
        LmiError: an extension that was asked for is not here.
    """
    from lmi.plugins import Plugins

    progress("import backend")
    file = load.model_file
    is_custom = file is not None and file.kind is Kind.CUSTOM
    plugins = Plugins.discover(only_backend="" if is_custom else load.backend)
    plugins.extension_problems()
    plugins.register(generate, "lmi.workers.generate")
    if file is not None and not is_custom:
        from lmi.custom.extension import import_extension

        plugins.register(import_extension(file), file.name)
    return plugins


def _arguments(method: Any, values: list[Any]) -> list[Any]:
    """What crossed as plain values, in the types that the ability's method takes."""
    hints = get_type_hints(method)
    names = list(inspect.signature(method).parameters)[1:]
    typed = [msgspec.convert(value, hints[name]) for name, value in zip(names, values, strict=False)]
    return typed + values[len(names) :]  # too many are the method's to refuse


def _die_with_server() -> None:
    """Ask the kernel to kill this process when the server is gone, even if the event loop is stuck (Linux only)."""
    server_pid = os.getppid()
    signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != server_pid:
        os._exit(0)


def _guard_children() -> None:
    """Fork a process that ends this one's group when this one is gone.

    Engines start processes of their own, which nobody asks to end if the worker is killed together with the server.
    Must be called before there are threads.
    """
    worker_pid = os.getpid()
    if os.getpgrp() != worker_pid or os.fork():
        return
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        signal_at_parents_death(signal.SIGUSR1)
        if os.getppid() == worker_pid:
            signal.sigwait({signal.SIGUSR1})
        os.killpg(worker_pid, signal.SIGKILL)
    finally:
        os._exit(0)


def prepare_process() -> None:
    """Tie this process to the one that started it, and its children to itself; before there are threads."""
    _die_with_server()
    _guard_children()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    logging.basicConfig(level=os.environ.get("LMI_LOG_LEVEL", "INFO").upper(), format="%(message)s", stream=sys.stderr)


def run_worker(make: Callable[[], WorkerMain]) -> None:
    """Serve the engine until the server says that it is enough; this process ends with it.

    Args:
        make: called inside the event loop.
    """

    async def run() -> None:
        code = await make().run(sys.argv[1])
        sys.stdout.flush()
        sys.stderr.flush()
        # Leaving the loop would wait for threads: of engine libraries, or of a load that was broken off.
        os._exit(code)

    try:
        import uvloop
    except ImportError:  # an engine's own environment need not have it
        asyncio.run(run())
    else:
        uvloop.run(run())


def main() -> None:
    prepare_process()
    run_worker(WorkerMain)


if __name__ == "__main__":
    main()
