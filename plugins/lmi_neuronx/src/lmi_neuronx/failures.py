# SPDX-License-Identifier: Apache-2.0
"""What the Neuron runtime says when it fails, as LMI's errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from lmi.api import EngineDeadError, EngineLoadError, LmiError, OutOfMemoryError

_STATUS = re.compile(r"\bnrt_\w+\b.*?\bstatus[ =:]+(\d+)", re.IGNORECASE | re.DOTALL)
_NO_ROOM = 4
_NO_CORES = 9
_OF_DEVICE = frozenset({5, 6, 7, 1002, 1003, 1004, 1005, 1006, 1200, 1201, 1202, 1203, 1204, 1205})
"""Numbers of the runtime's statuses. Source: nrt/nrt_status.h of the Neuron runtime."""

_MEMORY_HINT = (
    "Raise option.tensor_parallel_degree, lower option.n_positions or option.max_rolling_batch_size, or set "
    "option.quantize=static_int8"
)


def status_of(error: BaseException) -> int | None:
    """The runtime's status that an error tells; None where it tells none. There is no other way to learn it."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None


@contextlib.contextmanager
def failures_named() -> Iterator[None]:
    """Raise what a step failed with as LMI's error.

    Raises:
        OutOfMemoryError: the device has no room.
        EngineDeadError: the device failed.
    """
    try:
        yield
    except LmiError:
        raise
    except RuntimeError as error:
        status = status_of(error)
        if status == _NO_ROOM:
            raise OutOfMemoryError(
                "engine.out-of-memory", f"the NeuronCores are full: {error}", _MEMORY_HINT
            ) from error
        if status in _OF_DEVICE:
            raise EngineDeadError("engine.died", f"the Neuron runtime failed with status {status}: {error}") from error
        raise


@contextlib.contextmanager
def load_failures_named(what: str) -> Iterator[None]:
    """Raise what a load failed with as LMI's error.

    Args:
        what: was loaded, for the message.
    Raises:
        OutOfMemoryError: the device has no room.
        EngineLoadError: anything else; the cause is kept.
    """
    try:
        with failures_named():
            yield
    except EngineDeadError as error:
        hint = "neuron-top and dmesg show the devices; another instance may help"
        raise EngineLoadError("engine.load-failed", error.message, hint) from error
    except (LmiError, MemoryError):
        raise
    except Exception as error:
        if status_of(error) == _NO_CORES:
            raise EngineLoadError(
                "engine.no-cores",
                f"the Neuron runtime gave {what} no cores: {error}",
                "Another process may have them (neuron-ls shows it), or tensor_parallel_degree is more than there are",
            ) from error
        raise EngineLoadError(
            "engine.load-failed", f"{what}: {type(error).__name__}: {error}", "The traceback above names the line"
        ) from error


__all__ = ["failures_named", "load_failures_named", "status_of"]
