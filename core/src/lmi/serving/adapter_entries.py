# SPDX-License-Identifier: Apache-2.0
"""What the server knows of one adapter of a model."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lmi.api.errors import EngineLoadError, LmiError
from lmi.workers.adapters import RETRY_S, WantedAdapter

_LOG = logging.getLogger(__name__)
_MOST_ALIAS_CHARS = 128

TRIED = "It is tried again now and then; or mend its files, remove it (DELETE) and load it again"
LEFT = "It is not tried again: mend its files, remove it (DELETE) and load it again"
"""What to do about an adapter that could not be loaded."""


class AdapterState(str, Enum):
    """REGISTERED until a request names it, if it was not to be loaded before; LOADING until all ready workers have it;
    DRAINING while its last requests run; then UNLOADING, and it is gone.

    One whose load took too long is UNLOADING until the workers have given it up.
    """

    REGISTERED = "registered"
    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"
    UNLOADING = "unloading"


@dataclass(frozen=True, kw_only=True)
class AdapterWish:
    """What somebody asks for.

    Args:
        name: of the adapter.
        src: where it is, as it may be shown.
        alias: what people call it; empty where that is its name.
        is_preloaded: it is loaded now, not when the first request names it.
        is_pinned: it makes no room for others; it is loaded now in any case.
    """

    name: str
    src: str
    alias: str = ""
    is_preloaded: bool = True
    is_pinned: bool = False

    @property
    def is_eager(self) -> bool:
        """Whether it is loaded at once."""
        return self.is_preloaded or self.is_pinned


def title(name: str, alias: str = "") -> str:
    """How a message calls an adapter.

    Args:
        name: by which requests ask for it.
        alias: what people call it; empty where that is its name.
    """
    return f"adapter {alias[:_MOST_ALIAS_CHARS]!r} ({name})" if alias and alias != name else f"adapter {name!r}"


@dataclass
class AdapterEntry:
    """One adapter.

    Args:
        wish: what was asked for, as far as it was not changed.
        state: what becomes of it.
        path: its folder on this machine; empty until it is known.
    """

    wish: AdapterWish
    state: AdapterState
    path: str = ""
    stage: str = "the check of its files"
    """What is done before workers hear of it."""
    failure: LmiError | None = None
    """Why no worker loads it any more: one did not survive it."""
    removal: asyncio.Task[None] | None = None
    late_load: asyncio.Task[None] | None = None
    """That of one which was registered only: a request has named it."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is pinned or let go."""
    refusal: LmiError | None = None
    """Why it could not be loaded when a request named it."""
    refused_s: float = 0.0

    @property
    def name(self) -> str:
        return self.wish.name

    @property
    def title(self) -> str:
        """How a message calls it."""
        return title(self.wish.name, self.wish.alias)

    @property
    def wanted(self) -> WantedAdapter | None:
        """What workers are to have of it; None where they are to have nothing."""
        if self.state not in (AdapterState.LOADED, AdapterState.DRAINING) or self.failure is not None:
            return None
        return WantedAdapter(self.path, self.wish.is_pinned)

    @property
    def fresh_refusal(self) -> LmiError | None:
        """Why it is not loaded once more just now."""
        return self.refusal if self.refusal is not None and time.monotonic() - self.refused_s < RETRY_S else None

    def give_up(self, message: str) -> None:
        """Let no worker load it any more."""
        self.failure = EngineLoadError("adapter.not-loadable", message, LEFT)
        _LOG.error("no worker loads it any more: %s", self.failure)

    def refuse(self, error: LmiError) -> None:
        """Keep why it could not be loaded."""
        self.refusal, self.refused_s = error, time.monotonic()

    def shown(self) -> dict[str, Any]:
        """What operators see of it in any case."""
        wish = self.wish
        alias = {"alias": wish.alias} if wish.alias else {}
        return {"name": wish.name, **alias, "src": wish.src, "preload": wish.is_preloaded, "pin": wish.is_pinned}
