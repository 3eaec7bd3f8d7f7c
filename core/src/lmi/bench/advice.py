# SPDX-License-Identifier: Apache-2.0
"""The next option worth tuning, by rules over what was seen; the first rule that holds says its sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmi.bench.levels import Level

_MORE = 1.1
"""A level has more throughput than another where it has a tenth more."""
_FULL_CACHE = 0.95
_BUSY_CLIENT = 0.9
_HELD_UP = 5.0
"""Gaps are uneven where one in a hundred is so many times the middle one."""
_LONG_PROMPT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do next.

    Args:
        option: the one to change; empty where it is something else.
        sentence: why, and which way.
    """

    option: str
    sentence: str


def advice(levels: Sequence[Level], *, input_tokens: int) -> Advice:
    """What the levels say.

    Args:
        levels: in the order in which they were measured.
        input_tokens: what prompts were to have.
    """
    ordered = sorted(levels, key=lambda level: level.n_at_once)
    found = (rule(ordered, input_tokens) for rule in _RULES)
    return next(each for each in found if each is not None)


def flat_from(levels: Sequence[Level]) -> Level | None:
    """The smallest level that no greater one has more throughput than; None if that is the greatest."""
    for level in levels[:-1]:
        if all(
            other.tokens_per_s < _MORE * level.tokens_per_s for other in levels if other.n_at_once > level.n_at_once
        ):
            return level
    return None


def _with_error(levels: Sequence[Level], *codes: str) -> tuple[Level, int] | None:
    for level in levels:
        if n_errors := sum(level.errors.get(code, 0) for code in codes):
            return level, n_errors
    return None


def _of(level: Level, n_errors: int) -> str:
    return f"{n_errors} of {level.n_requests} requests at {level.n_at_once} at once"


def _refused(levels: Sequence[Level], _: int) -> Advice | None:
    found = _with_error(levels, "queue.full", "http.429")
    if found is None:
        return None
    sentence = f"{_of(*found)} were refused with 429: raise it if they may wait, add copies (min_workers) if not"
    return Advice(option="job_queue_size", sentence=sentence)


def _memory(levels: Sequence[Level], _: int) -> Advice | None:
    found = _with_error(levels, "engine.out-of-memory", "http.507")
    if found is None:
        return None
    return Advice(option="option.max_rolling_batch_size", sentence=f"{_of(*found)} ran out of memory: lower it")


def _late(levels: Sequence[Level], _: int) -> Advice | None:
    found = _with_error(levels, "request.deadline", "http.504")
    if found is None:
        return None
    sentence = f"{_of(*found)} had no token when their time ran out: raise it, or let fewer wait (job_queue_size)"
    return Advice(option="predict_timeout", sentence=sentence)


def _deaths(levels: Sequence[Level], _: int) -> Advice | None:
    for level in levels:
        if level.server is not None and level.server.n_deaths > 0:
            died = f"{level.server.n_deaths} workers died at {level.n_at_once} at once"
            return Advice(option="", sentence=f"{died}: read the server's log before anything is tuned")
    return None


def _failed(levels: Sequence[Level], _: int) -> Advice | None:
    for level in levels:
        if level.n_errors:
            code, message = next(iter(level.errors)), next(iter(level.messages.values()), "")
            return Advice(option="", sentence=f"{_of(level, level.n_errors)} failed, first {code}: {message[:200]}")
    return None


def _client(levels: Sequence[Level], _: int) -> Advice | None:
    for level in levels:
        if level.client_cpu_share > _BUSY_CLIENT:
            share = f"this client took {level.client_cpu_share:.0%} of a core at {level.n_at_once} at once"
            return Advice(
                option="", sentence=f"{share}: it is measured too; ask from several machines, or less at once"
            )
    return None


def _cache(levels: Sequence[Level], _: int) -> Advice | None:
    for level in levels:
        seen = level.server
        if seen is not None and seen.n_waiting_peak and (seen.cache_share_peak or 0) >= _FULL_CACHE:
            full = f"the cache was {seen.cache_share_peak:.0%} full at {level.n_at_once} at once while requests waited"
            return Advice(
                option="option.tensor_parallel_degree",
                sentence=f"{full}: raise it, or give the cache more of each device (option.gpu_memory_utilization, "
                "where the backend has it), or lower option.max_model_len",
            )
    return None


def _batch(levels: Sequence[Level], _: int) -> Advice | None:
    greatest = levels[-1]
    seen, flat = greatest.server, flat_from(levels)
    if seen is None or not seen.n_waiting_peak or (flat is None and len(levels) > 1):
        return None
    since = f"throughput is flat from {flat.n_at_once} at once" if flat else f"at {greatest.n_at_once} at once"
    sentence = f"{since}, {seen.n_waiting_peak} requests waited and no more than {seen.n_running_peak} ran: raise it"
    return Advice(option="option.max_rolling_batch_size", sentence=sentence)


def _prefills(levels: Sequence[Level], input_tokens: int) -> Advice | None:
    level = levels[-1]
    middle, worst = level.gap_s["p50"], level.gap_s["p99"]
    if input_tokens < _LONG_PROMPT_TOKENS or level.n_at_once == 1 or not middle or not worst:
        return None
    if worst < _HELD_UP * middle:
        return None
    gaps = f"one gap in a hundred is {worst * 1000:.0f} ms, the middle one {middle * 1000:.0f} ms"
    return Advice(
        option="option.max_rolling_batch_prefill_tokens",
        sentence=f"{gaps}: prompts that are read hold up the streams beside them; lower it",
    )


def _growing(levels: Sequence[Level], _: int) -> Advice | None:
    greatest = levels[-1].n_at_once
    if len(levels) > 1 and flat_from(levels) is not None:
        return None
    grew = "throughput still grew" if len(levels) > 1 else "one level tells no trend"
    return Advice(option="", sentence=f"{grew}: go on with --at-once {greatest * 2} {greatest * 4}")


def _computing(levels: Sequence[Level], _: int) -> Advice | None:
    flat = flat_from(levels)
    since = f"throughput is flat from {flat.n_at_once} at once" if flat else "throughput is flat"
    told = levels[-1].server is not None
    why = "nothing waited, so the device sets the pace" if told else "the server does not say what waits"
    return Advice(
        option="option.tensor_parallel_degree",
        sentence=f"{since} and {why}: raise it, or add copies (min_workers), or quantize (option.quantize)",
    )


_RULES: tuple[Callable[[Sequence[Level], int], Advice | None], ...] = (
    _deaths, _memory, _refused, _late, _failed, _client, _cache, _batch, _prefills, _growing, _computing,
)  # fmt: skip
"""In order: what fails comes before what is slow; the last one always holds."""
