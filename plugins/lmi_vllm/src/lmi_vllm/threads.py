# SPDX-License-Identifier: Apache-2.0
"""The cores that vLLM's ranks compute on, where the CPU is the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from lmi.api import copy_of, n_quota_cores
from lmi_vllm import machine

BIND = "VLLM_CPU_OMP_THREADS_BIND"
NUMBER = "OMP_NUM_THREADS"
_NO_BINDING = "nobind"


def choose_threads(n_ranks: int, environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The variables to set, and a line that says what was chosen and why.

    Left to itself vLLM binds a thread to each core but one, and refuses more ranks than there are NUMA nodes; copies of
    a model would all sit on the same cores, and a container with a quota would get a thread for each core of the host.

    Args:
        n_ranks: processes that compute, of this copy.
        environ: a binding or a number of threads that is set already holds.
    """
    index, n_copies = copy_of(environ)
    if environ.get(BIND):
        return {}, f"Threads: as {BIND}={environ[BIND]} says"
    given = environ.get(NUMBER, "").partition(",")[0]  # one number a nesting level
    if given.isdigit() and int(given):
        return {BIND: _NO_BINDING}, f"Threads: {given} for each rank, not bound to cores, as {NUMBER}={given} says"
    cores, n_quota = machine.cores(), n_quota_cores()
    if 0 < n_quota < len(cores):
        n_threads = str(max(1, n_quota // (n_copies * n_ranks)))
        line = f"Threads: {n_threads} for each rank, not bound, as the container has {n_quota} of {len(cores)} cores"
        return {BIND: _NO_BINDING, NUMBER: n_threads}, f"{line}; set {NUMBER} for others"
    if n_copies == 1 and n_ranks <= machine.n_memory_nodes():
        return {}, f"Threads: vLLM binds one to each of {len(cores)} cores and leaves some free; set {BIND} for others"
    ranks = _divided(_spared(_share(cores, index, n_copies), n_ranks), n_ranks)
    bind = "|".join(",".join(map(str, rank)) for rank in ranks)
    whose = f"copy {index} of {n_copies}" if n_copies > 1 else f"{n_ranks} ranks on {len(cores)} cores"
    return {BIND: bind}, f"Threads: bound to cores {bind} ({whose}); set {BIND} for others"


def _share(cores: Sequence[int], index: int, n_copies: int) -> Sequence[int]:
    """The cores of one copy; copies share cores where there are too few."""
    return _divided(cores, n_copies)[index]


def _spared(cores: Sequence[int], n_ranks: int) -> Sequence[int]:
    """The cores without one for the scheduler, where each rank keeps two or more."""
    return cores[:-1] if len(cores) > 2 * n_ranks else cores


def _divided(cores: Sequence[int], n_parts: int) -> list[Sequence[int]]:
    """Parts that differ by one core at most; where there are fewer cores than parts, a core serves several."""
    if len(cores) < n_parts:
        return [[cores[part % len(cores)]] for part in range(n_parts)]
    ends = [len(cores) * part // n_parts for part in range(n_parts + 1)]
    return [cores[first:last] for first, last in pairwise(ends)]
