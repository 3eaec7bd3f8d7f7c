# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a model's memory on a machine, for ``lmi check`` and a start."""

from __future__ import annotations

from collections.abc import Sequence

from lmi.api import Accelerator, BackendConfig, BackendInfo, ModelArtifacts, Problem, Severity, Target
from lmi.api.errors import counted
from lmi.planning.estimates import Estimate, estimate, why_unknown
from lmi.planning.machines import recommended
from lmi.planning.sizing import length_options
from lmi.planning.units import shown_bytes

_FEW_SEQUENCES = 4
"""Fewer than these at a time, and requests wait for each other most of the time."""


def memory_problems(
    artifacts: ModelArtifacts, config: BackendConfig, info: BackendInfo, target: Target, *, is_here: bool = True
) -> list[Problem]:
    """Why a model does not fit a machine, or hardly: an error where its weights do not, a warning where few sequences
    do. Nothing is said where memory or sizes are not known.

    Args:
        artifacts: the model.
        config: options of the backend.
        info: the backend.
        target: the machine.
        is_here: whether the machine is this one, whose free memory counts.
    """
    if why_unknown(artifacts):
        return []
    found = estimate(artifacts, config, info, target, is_here=is_here)
    fit = found.fit
    if not found.is_memory_known or fit.refusal:
        return []
    if not fit.holds_weights:
        return [_too_large(found, artifacts, config, info, target)]
    if fit.n_sequences >= min(_FEW_SEQUENCES, fit.max_sequences):
        return []
    return [_few(found, config)]


def _too_large(
    found: Estimate, artifacts: ModelArtifacts, config: BackendConfig, info: BackendInfo, target: Target
) -> Problem:
    fit = found.fit
    split = f", split over {fit.degree}," if fit.degree > 1 else ""
    where = "the host has free" if target.accelerator is Accelerator.CPU else "each device has"
    message = (
        f"the model{split} needs {shown_bytes(fit.needed_bytes - fit.reserve_bytes)} before the first token (weights "
        f"{shown_bytes(fit.weight_bytes)}, the rest {shown_bytes(fit.activation_bytes + fit.overhead_bytes)}); "
        f"{where} {shown_bytes(fit.memory_bytes)}"
    )
    if fit.reserve_bytes:
        message += f", of which {found.info_name} uses {shown_bytes(fit.memory_bytes - fit.reserve_bytes)}"
    return Problem(
        code="memory.model-too-large",
        message=message,
        hint=_what_fits(found, artifacts, config, info, target),
        fields=("tensor_parallel_degree",),
    )


def _what_fits(
    found: Estimate, artifacts: ModelArtifacts, config: BackendConfig, info: BackendInfo, target: Target
) -> str:
    """The smallest degree of this machine that holds the model, else the smallest machine that does."""
    if target.accelerator is not Accelerator.CPU:
        for degree in range(found.sizing.degree + 1, found.n_devices + 1):
            if estimate(artifacts, config, info, target, degree=degree).fit.holds_weights:
                return f"Set option.tensor_parallel_degree={degree}"
    machines = recommended(artifacts, config, info)
    if not machines:
        return "Take a smaller model, or one with compressed weights"
    best = machines[0]
    return (
        f"It fits {best.instance.name} with option.tensor_parallel_degree={best.fit.degree}, or take a model with "
        "compressed weights"
    )


def _few(found: Estimate, config: BackendConfig) -> Problem:
    fit, options = found.fit, length_options(config)
    n, tokens = fit.n_sequences, fit.max_model_len
    left = f"{shown_bytes(fit.cache_bytes)} are left for the cache"
    is_whole = fit.degree >= found.n_devices
    more = "take a machine with more memory" if is_whole else "split the model over more devices"
    if n:
        message = f"{left}: {counted(n, 'sequence')} of {tokens} tokens at a time"
        shorter = fit.cache.most_tokens(fit.cache_bytes // _FEW_SEQUENCES) or 0
        hint = f"With {_length(options, shorter)} there is room for {_FEW_SEQUENCES}"
    else:
        message = f"{left}, which holds {fit.most_tokens} tokens; one sequence may have {tokens}"
        hint = f"Set {_length(options, fit.most_tokens)} or less"
    return Problem(
        code="memory.few-sequences",
        message=message,
        hint=f"{hint}, or {more}",
        severity=Severity.WARNING,
        fields=options,
    )


def _length(options: Sequence[str], n_tokens: int) -> str:
    """A limit of a sequence as these options say it."""
    number = _round_down(n_tokens)
    if len(options) == 1:
        return f"option.{options[0]}={number}"
    return f"{' and '.join(f'option.{name}' for name in options) or 'sequences'} of {number} tokens together"


def _round_down(n_tokens: int) -> int:
    return n_tokens // 64 * 64 if n_tokens >= 1024 else n_tokens
