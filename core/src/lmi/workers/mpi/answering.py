# SPDX-License-Identifier: Apache-2.0
"""An answerer on many ranks: rank 0 says what the model is called with, and all of them call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.answering import Answerer, Inputs

if TYPE_CHECKING:
    from lmi.workers.mpi.group import RankGroup

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Inputs | None).decode


class MpiCompute:
    """``Answerer.compute`` of rank 0, with that of all other ranks behind it.

    Args:
        answerer: of this rank.
        group: with this process as rank 0.
        on_close: called before the other ranks are told to end.
    """

    def __init__(self, answerer: Answerer, group: RankGroup, on_close: Callable[[], None]) -> None:
        self._answerer = answerer
        self._group = group
        self._on_close = on_close
        self._is_closed = False

    def __call__(self, inputs: Inputs) -> Any:
        self._group.broadcast(_encode(inputs))
        return self._answerer.compute(inputs)

    def close(self) -> None:
        """End all ranks."""
        if self._is_closed:
            return
        self._is_closed = True
        self._on_close()
        self._group.broadcast(_encode(None))
        self._answerer.close()
        self._group.finish()


def follow_calls(answerer: Answerer, group: RankGroup) -> None:
    """Call the model as rank 0 says, until it says that this is the end.

    Args:
        answerer: of this rank.
        group: with this process as any rank but 0.
    Raises:
        Exception: whatever the model raised; this rank cannot go on.
    """
    while (inputs := _decode(group.receive())) is not None:
        answerer.compute(inputs)
