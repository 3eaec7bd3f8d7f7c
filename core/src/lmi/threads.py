# SPDX-License-Identifier: Apache-2.0
"""Slow work in a thread of its own, which ends with the work."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

_T = TypeVar("_T")


async def in_own_thread(work: Callable[[], _T]) -> _T:
    """Run slow work beside the event loop.

    Unlike a thread of an executor this one keeps no stopping process alive, and it is gone when the work is done. An
    OpenMP runtime gives every thread that computes a team of its own, and while there are more of them than cores its
    teams wait passively: one idle thread that once computed halves the speed of the one that does.

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

    threading.Thread(target=run, daemon=True).start()
    return await future
