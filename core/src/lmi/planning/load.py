# SPDX-License-Identifier: Apache-2.0
"""What to set for a load of requests, and why it is not met."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lmi.api import BackendConfig
from lmi.planning.demand import Answer, Demand, answer
from lmi.planning.fit import Fit
from lmi.planning.sizing import PART_LENGTHS, Sizing, length_options

_BATCH = "option.max_rolling_batch_size"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load of requests against a machine.

    Args:
        demand: the load.
        answer: how it is met; None where it is not.
        is_met: whether the configuration as it stands meets it, with as many machines as it takes.
        advice: what to set so that it is met, or met with less; sentences, and why it cannot be met.
    """

    demand: Demand
    answer: Answer | None
    is_met: bool
    advice: tuple[str, ...] = ()


def load_of(
    demand: Demand,
    *,
    fits: list[Fit],
    configured: Fit,
    n_devices: int,
    wanted_degree: int,
    sizing: Sizing,
    config: BackendConfig | None,
    refit: Callable[[Sizing, int], Fit],
) -> Load:
    """Judge a load.

    Args:
        demand: the load.
        fits: ways to split a copy over devices of the machine.
        configured: the one of the configuration.
        n_devices: of the machine.
        wanted_degree: devices of a copy that somebody set; 0 where any will do.
        sizing: what the configuration says.
        config: options of the backend; None where they do not hold.
        refit: splits the model for another sizing over so many devices, stages not counted.
    """
    own = next((fit for fit in fits if fit.degree == configured.degree), configured)
    is_met = answer(demand, [own], n_devices) is not None
    met = answer(demand, [fit for fit in fits if wanted_degree in (0, fit.degree)], n_devices)
    too_long = _too_long(demand, sizing, config)
    if too_long:
        return Load(demand=demand, answer=None, is_met=False, advice=(too_long,))
    other = met or answer(demand, fits, n_devices)
    if other is None:
        return Load(demand=demand, answer=None, is_met=False, advice=(_no_room(demand, fits),))
    advice = []
    if other.fit.degree != own.degree:
        advice.append(_other_degree(other, own, sizing, is_met=is_met))
    more = _more_sequences(demand, other, sizing, refit)
    return Load(demand=demand, answer=met, is_met=is_met, advice=(*advice, *more))


def _other_degree(met: Answer, own: Fit, sizing: Sizing, *, is_met: bool) -> str:
    wanted, now = met.fit.degree // sizing.n_stages, own.degree // sizing.n_stages
    why = "fewer machines or devices do then" if is_met else "not one sequence of the load fits"
    return f"set option.tensor_parallel_degree={wanted}; it is {now}, and {why}"


def _more_sequences(
    demand: Demand, met: Answer, sizing: Sizing, refit: Callable[[Sizing, int], Fit]
) -> tuple[str, ...]:
    """That an option, not memory, limits how many sequences a copy runs; nothing where that does not matter."""
    if met.n_sequences < met.fit.max_sequences or demand.concurrency <= met.n_sequences:
        return ()
    free = msgspec.structs.replace(sizing, max_sequences=demand.concurrency)
    n = refit(free, met.fit.degree // sizing.n_stages).sequences_of(demand.n_tokens)
    if n <= met.n_sequences:
        return ()
    return (f"{met.n_sequences} sequences a copy by {_BATCH}; {n} would fit: set {_BATCH}={n}",)


def _too_long(demand: Demand, sizing: Sizing, config: BackendConfig | None) -> str:
    """That a request of the load is longer than the model or its configuration allows; empty where it is not."""
    n, most = demand.n_tokens, sizing.model_tokens
    if most and n > most:
        return f"a request of {n} tokens is longer than the {most} that the model was made for"
    if n <= sizing.max_model_len:
        return ""
    said = f"a request of {n} tokens is longer than the {sizing.max_model_len} that the configuration allows"
    options = () if config is None else length_options(config)
    if options == PART_LENGTHS:
        values = (demand.input_tokens, demand.output_tokens)
        wanted = " and ".join(f"option.{name}={value}" for name, value in zip(options, values, strict=True))
        return f"{said}: set {wanted}"
    return f"{said}: set option.{options[0]}={n}" if options else said


def _no_room(demand: Demand, fits: list[Fit]) -> str:
    most = max((fit.most_tokens for fit in fits if fit.holds_weights), default=0)
    if not most:
        return "the weights do not fit this machine, however they are split"
    return f"a request of {demand.n_tokens} tokens has no room beside the weights, the longest that has is {most}"
