# SPDX-License-Identifier: Apache-2.0
"""The device and its compiler, as far as a driver can tell them from real ones."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

NO_ROOM = (
    "The PyTorch Neuron Runtime could not be initialized: nrt_tensor_allocate status=4 message=Allocation Failure "
    "(failed to allocate 1073741824 bytes on ND 0:NC 0)"
)
NO_CORES = "nrt_init failed with status=9: Logical Neuron Core(s) not available - Requested:{wanted} Available:{there}"
BROKEN = "nrt_execute status=1200 message=Execution failed due to a hardware error"

_DIMENSIONS = (
    "vocab_size", "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
    "num_key_value_heads", "intermediate_size", "n_inner", "ffn_dim",
)  # fmt: skip

_LOCKS: list[Any] = []


def record(**said: Any) -> None:
    """Add a line to the record, if there is one."""
    if os.environ.get("STANDIN_NEURON_RECORD"):
        with Path(os.environ["STANDIN_NEURON_RECORD"]).open("a") as file:
            file.write(json.dumps(said, default=str) + "\n")


def compiler_version() -> str:
    return os.environ.get("STANDIN_NEURON_COMPILER", "2.16.345.0+69131dd3")


def take_cores(n_cores: int) -> None:
    """Own the visible cores, or fail as the runtime does where there are too few or another process has them."""
    if _fails("memory"):
        raise RuntimeError(NO_ROOM)
    cores = _visible()
    if cores is None:
        return
    if len(cores) < n_cores:
        raise RuntimeError(NO_CORES.format(wanted=n_cores, there=len(cores)))
    folder = os.environ.get("STANDIN_NEURON_LOCKS")
    for core in cores if folder and not _LOCKS else ():
        file = (Path(folder or "") / f"core{core}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(NO_CORES.format(wanted=n_cores, there=0)) from None
        _LOCKS.append(file)


def _visible() -> list[int] | None:
    text = os.environ.get("NEURON_RT_VISIBLE_CORES")
    if text is None:
        return None
    cores: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


def dimensions(config: Any) -> dict[str, Any]:
    """What a graph depends on of a model: its numbers, not what else its configuration says."""
    return {key: getattr(config, key) for key in _DIMENSIONS if hasattr(config, key)}


def graph_name(content: Any) -> str:
    """The name of the file that holds the graph of something: any change of it, of the flags or of the compiler's
    version gives another name."""
    flags = os.environ.get("NEURON_CC_FLAGS", "")
    text = json.dumps([content, flags, compiler_version()], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20] + ".neff"


def compiled(name: str) -> bytes:
    """A graph, from the cache if there is one and it has it."""
    cache = os.environ.get("NEURON_COMPILE_CACHE_URL", "")
    entry = Path(cache) / f"neuronxcc-{compiler_version()}" / f"MODULE_{name.removesuffix('.neff')}" / "model.neff"
    if cache and entry.is_file():
        record(what="cached", name=name)
        return entry.read_bytes()
    time.sleep(float(os.environ.get("STANDIN_NEURON_COMPILE_S", "0")))
    if _fails("compile"):
        raise RuntimeError("neuronx-cc failed with 70: [NCC_EVRF007] Instructions generated exceed the typical limit")
    record(what="compiled", name=name)
    graph = f"graph {name} of {compiler_version()}".encode()
    if cache:
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_bytes(graph)
    return graph


class Steps:
    """Counts the steps of a device, and fails in the one that was told to."""

    def __init__(self) -> None:
        self.n_done = 0

    def next(self) -> None:
        self.n_done += 1
        time.sleep(float(os.environ.get("STANDIN_NEURON_STEP_S", "0")))
        if _fails(f"step:{self.n_done}"):
            raise RuntimeError(BROKEN)
        if _fails(f"die:{self.n_done}"):
            os._exit(134)


def _fails(how: str) -> bool:
    once = os.environ.get("STANDIN_NEURON_FAIL_ONCE")
    if os.environ.get("STANDIN_NEURON_FAIL") != how or (once and Path(once).exists()):
        return False
    if once:
        Path(once).touch()
    return True
