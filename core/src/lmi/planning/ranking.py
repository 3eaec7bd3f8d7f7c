# SPDX-License-Identifier: Apache-2.0
"""Every known backend, ranked for a model and a machine; those that are not installed are data, in known.json."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lmi.api import ArtifactFormat, BackendInfo, ModelArtifacts, Problem, Target
from lmi.planning.estimates import estimate, memory_of, why_unknown
from lmi.planning.fit import Fit
from lmi.planning.instances import family_of
from lmi.planning.machines import degrees_of
from lmi.planning.sizing import Sizing
from lmi.plugins import Plugins
from lmi.plugins.absent import known_backends
from lmi.plugins.fit import Circumstances, misfits

COMPILED = (ArtifactFormat.TRITON_REPOSITORY, ArtifactFormat.ENGINES, ArtifactFormat.NEURON)
"""Formats that need no compiling when they are loaded."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A backend and what it would make of a model on a machine.

    Args:
        name: of the backend.
        package: that brings it.
        is_installed: whether it is usable here.
        takes: whether it would serve this model on this machine.
        reason: why, or why not.
        install: the command that installs it.
        image: kind of LMI's image that holds its engine; empty where there is none.
        degree: devices of a copy, at the smallest number that fits; 0 where nothing fits or is known.
        n_sequences: of the longest that the configuration allows, in one copy.
    """

    name: str
    package: str
    is_installed: bool
    takes: bool
    reason: str
    install: str
    image: str
    degree: int = 0
    n_sequences: int = 0


def ranked(
    artifacts: ModelArtifacts,
    target: Target,
    plugins: Plugins,
    sizing: Sizing | None = None,
    *,
    chosen: str = "",
    task: str | None = None,
    is_here: bool = True,
) -> list[Candidate]:
    """The backends, the one to take first.

    Args:
        artifacts: the model.
        target: the machine.
        plugins: what is installed.
        sizing: what the configuration says; for all but the chosen backend its length and compression count.
        chosen: name of the backend that the configuration is for.
        task: the value of ``option.task``; None where it is not set.
        is_here: whether the machine is this one, whose free memory counts.
    """
    found: list[tuple[tuple[object, ...], Candidate]] = []
    around = Circumstances(artifacts, target)
    for info, package, is_installed in _all(plugins):
        if not info.needs_model and artifacts.format is not ArtifactFormat.NONE:
            continue
        own = sizing if info.name == chosen else _own_sizing(artifacts, info, target, plugins, sizing)
        fit = None if why_unknown(artifacts) else best_fit(artifacts, info, target, own, is_here=is_here)
        refusal = _refusal(info, artifacts, target, fit, task)
        candidate = Candidate(
            name=info.name, package=package, is_installed=is_installed, takes=not refusal,
            reason=refusal or _praise(info, artifacts, fit), install=info.install or f"pip install {package}",
            image=info.image, degree=fit.degree if fit is not None and fit.fits else 0,
            n_sequences=0 if fit is None else fit.n_sequences,
        )  # fmt: skip
        key = (bool(refusal), not info.is_loadable, not is_installed, *around.preference(info))
        found.append((key, candidate))
    return [candidate for _, candidate in sorted(found, key=lambda each: each[0])]


def best_fit(
    artifacts: ModelArtifacts, info: BackendInfo, target: Target, sizing: Sizing | None, *, is_here: bool
) -> Fit | None:
    """The smallest degree of a machine that fits, else the largest that is possible; None where that is unknown."""
    if not memory_of(target, is_here=is_here) or target.accelerator not in info.accelerators:
        return None
    last = None
    for degree in degrees_of(max(1, target.n_devices)):
        fit = estimate(artifacts, None, info, target, degree=degree, is_here=is_here, sizing=sizing).fit
        if fit.fits:
            return fit
        last = fit if last is None or not fit.refusal else last
    return last


def _own_sizing(
    artifacts: ModelArtifacts, info: BackendInfo, target: Target, plugins: Plugins, sizing: Sizing | None
) -> Sizing:
    """What a backend would make of its defaults, with the length and the compression that are wanted."""
    config = plugins.config_type(info.name).model_construct() if info.name in plugins.backends else None
    own = Sizing.of(artifacts, config, info, target)
    if sizing is None:
        return own
    takes_it = not info.quantizations or sizing.quantize in info.quantizations
    quantize = sizing.quantize if takes_it else ""
    return msgspec.structs.replace(own, max_model_len=sizing.max_model_len, quantize=quantize)


def off_instance(info: BackendInfo, target: Target) -> str:
    """That a backend is not offered on the family of a machine; empty where it is, or the machine has no name."""
    family = family_of(target.instance)
    if not family or not info.instances or family in info.instances:
        return ""
    return f"is not offered on {family}, only on {', '.join(info.instances)}"


def instance_problems(info: BackendInfo, target: Target, others: Iterable[BackendInfo]) -> list[Problem]:
    """The problem of a backend on a machine that it is not offered on.

    Args:
        info: the backend.
        target: the machine.
        others: backends that could take its place.
    """
    reason = off_instance(info, target)
    if not reason or target.accelerator not in info.accelerators:  # another kind of device is told by itself
        return []
    able = [
        each.name
        for each in others
        if each.needs_model and target.accelerator in each.accelerators and not off_instance(each, target)
    ]
    hint = f"Choose {' or '.join(able)}, or another machine" if able else "Choose another machine"
    message = f"{info.name} {reason}, and the machine is {target.instance}"
    return [Problem(code="backend.not-on-instance", message=message, hint=hint)]


def compiles_at_start(info: BackendInfo, artifacts: ModelArtifacts) -> bool:
    """Whether a start would compile the model first."""
    return info.needs_compile and artifacts.format not in (*COMPILED, ArtifactFormat.NONE)


def _all(plugins: Plugins) -> list[tuple[BackendInfo, str, bool]]:
    packages = {record.name: record.distribution for record in plugins.records if record.info is not None}
    installed = [(info, packages.get(name, ""), True) for name, info in plugins.backends.items()]
    others = [(info, package, False) for info, package in known_backends() if info.name not in plugins.backends]
    return [*installed, *others]


def _refusal(info: BackendInfo, artifacts: ModelArtifacts, target: Target, fit: Fit | None, task: str | None) -> str:
    reasons = misfits(info, artifacts, target, task=task)
    off = off_instance(info, target)
    if reasons:
        return "; ".join(reasons)
    if off:
        return off
    if fit is None or fit.fits:
        return ""
    if fit.refusal:
        return fit.refusal
    if not fit.holds_weights:
        return f"the weights do not fit, split over {fit.degree}" if fit.degree > 1 else "the weights do not fit"
    return f"not one sequence of {fit.max_model_len} tokens fits, the longest has {fit.most_tokens}"


def _praise(info: BackendInfo, artifacts: ModelArtifacts, fit: Fit | None) -> str:
    parts = []
    if fit is not None:
        parts.append(f"{fit.n_sequences} x {fit.max_model_len} tokens at degree {fit.degree}")
    if compiles_at_start(info, artifacts):
        parts.append("compiles at start")
    if not info.is_loadable:
        parts.append("cannot load models yet")
    return ", ".join(parts) or "suits model and device"
