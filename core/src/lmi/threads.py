# SPDX-License-Identifier: Apache-2.0
"""Slow work beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

_T = TypeVar("_T")


_STACK_LOCK = threading.Lock()


async def in_own_thread(work: Callable[[], _T], *, stack_bytes: int = 0) -> _T:
    """Run slow work beside the event loop.

    Unlike a thread of an executor this one keeps no stopping process alive, and it is gone when the work is done. An
    OpenMP runtime gives every thread that computes a team of its own, and while there are more of them than cores its
    teams wait passively: one idle thread that once computed halves the speed of the one that does.

    Args:
        work: called in the thread.
        stack_bytes: of the thread, for work that calls itself often; 0 for the usual size.
    Raises:
        BaseException: whatever the work raised.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(_T, result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, failure)

    thread = threading.Thread(target=run, daemon=True)
    with stack_of(stack_bytes):
        thread.start()
    return await future


async def aside(work: Callable[[], _T], *, is_long: bool) -> _T:
    """Do work of a request: beside the event loop where it is long, for other requests not to wait for it.

    A thread costs about as much as 0.1 ms of work, so that short work is done at once.

    Args:
        work: that of a few milliseconds at most, unless ``is_long``.
        is_long: whether it may take longer.
    """
    return await asyncio.to_thread(work) if is_long else work()


@contextlib.contextmanager
def stack_of(n_bytes: int) -> Iterator[None]:
    """Threads that are started meanwhile have a stack of this size; 0 for the usual one.

    Only what is used of it is memory.
    """
    with _STACK_LOCK:  # the size is one of the whole process
        before = threading.stack_size(n_bytes) if n_bytes else 0
        try:
            yield
        finally:
            if n_bytes:
                threading.stack_size(before)
