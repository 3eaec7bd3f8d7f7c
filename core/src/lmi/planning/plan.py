# SPDX-License-Identifier: Apache-2.0
"""From a configuration that was resolved to a plan: what fits, how often, where, and with which backend."""

from __future__ import annotations

import msgspec

from lmi.api import Problem, Severity
from lmi.artifacts import check
from lmi.checking import problems_of
from lmi.config import ModelOptions
from lmi.config.settings import Setting
from lmi.devices.degree import refusals_of
from lmi.planning.demand import Demand
from lmi.planning.estimates import estimate, why_unknown
from lmi.planning.fit import Fit
from lmi.planning.instances import instance_of
from lmi.planning.load import load_of
from lmi.planning.machines import degrees_of, recommended
from lmi.planning.problems import memory_problems
from lmi.planning.ranking import instance_problems, ranked
from lmi.planning.report import Plan
from lmi.planning.sizing import Sizing
from lmi.planning.timing import start_problems, start_time
from lmi.planning.weights import stored_bytes
from lmi.plugins import Plugins
from lmi.plugins.choice import Choice
from lmi.resolution import Resolution
from lmi.target import DEGREE

_NOT_WHOLE = {
    f"weights.{each}"
    for each in ("lfs-pointer", "missing", "shard-missing", "tensor-missing", "truncated", "unreadable")
}
"""Codes of problems with which the weights that were found are not those of the model."""


def plan_memory(found: Resolution, plugins: Plugins, *, demand: Demand | None = None, is_here: bool = True) -> Plan:
    """Plan one model.

    Args:
        found: the configuration; one that cannot be served is planned as far as it goes.
        plugins: what is installed.
        demand: the load to meet.
        is_here: whether the machine is this one, whose free memory counts.
    """
    plan = Plan(found.entry.name, found.artifacts, found.target, problems=list(found.problems))
    if found.failure is not None:
        plan.problems = list(dict.fromkeys([*plan.problems, *problems_of(found.failure)]))
    if found.choice is not None:
        plan.info, plan.reason = found.choice.info, found.choice.reason
    if found.artifacts is None:
        plan.unknown = "its files could not be looked at"
        return plan
    _add(plan, [each for each in check(found.artifacts, found.files) if each.severity is Severity.ERROR])
    if any(each.code in _NOT_WHOLE for each in plan.problems):
        plan.unknown, plan.is_whole = "its weights are not whole", False
        return plan
    plan.unknown = why_unknown(found.artifacts)
    if found.choice is not None and not plan.unknown:
        _reckon(plan, found, found.choice, plugins, demand, is_here=is_here)
    sizing = None if plan.estimate is None else plan.estimate.sizing
    chosen = "" if plan.info is None else plan.info.name
    task = found.settings.text("option.task")
    plan.candidates = ranked(
        found.artifacts, found.target, plugins, sizing, chosen=chosen, task=task, is_here=is_here
    )  # fmt: skip
    return plan


def _add(plan: Plan, problems: list[Problem]) -> None:
    """Add what was not told yet."""
    plan.problems += [problem for problem in problems if problem not in plan.problems]


def _reckon(
    plan: Plan, found: Resolution, choice: Choice, plugins: Plugins, demand: Demand | None, *, is_here: bool
) -> None:
    """Fill in the figures of the chosen backend."""
    artifacts, info, target = found.artifacts, choice.info, found.target
    assert artifacts is not None  # noqa: S101 - the caller looked
    config = None if found.parsed is None else found.parsed.config
    plan.estimate = estimate(artifacts, config, info, target, is_here=is_here)
    plan.wanted_degree = _wanted_degree(found, plan.estimate.fit.degree)
    refused = _refused_degrees(found, choice, plugins)
    degrees = sorted({plan.estimate.sizing.degree, *degrees_of(max(1, target.n_devices))})
    fits = [estimate(artifacts, config, info, target, degree=degree, is_here=is_here).fit for degree in degrees]
    plan.fits = [
        msgspec.structs.replace(fit, refusal=fit.refusal or refused.get(degree, ""))
        for degree, fit in zip(degrees, fits, strict=True)
    ]
    if demand:

        def refit(sizing: Sizing, degree: int) -> Fit:
            return estimate(artifacts, config, info, target, degree=degree, is_here=is_here, sizing=sizing).fit

        plan.load = load_of(
            demand, fits=plan.fits, configured=plan.estimate.fit, n_devices=max(1, target.n_devices),
            wanted_degree=plan.wanted_degree, sizing=plan.estimate.sizing, config=config, refit=refit,
        )  # fmt: skip
    n_tokens, concurrency = (demand.n_tokens, demand.concurrency) if demand else (0, 1)
    plan.machines = recommended(artifacts, config, info, n_tokens=n_tokens, concurrency=concurrency)
    options = ModelOptions() if found.parsed is None else found.parsed.options
    instance = instance_of(target.instance) if target.instance else None
    plan.start = start_time(artifacts, stored_bytes(artifacts), info, instance, options.model_loading_timeout)
    plan.problems += instance_problems(info, target, plugins.backends.values())
    plan.problems += start_problems(plan.start, info)
    if config is not None:
        _add(plan, memory_problems(artifacts, config, info, target, is_here=is_here))


def _wanted_degree(found: Resolution, degree: int) -> int:
    """The degree that somebody set, which is the only one that counts; 0 where it is a default."""
    setting = found.settings.get(DEGREE)
    return 0 if setting is None or setting.source.startswith("default") else degree


def _refused_degrees(found: Resolution, choice: Choice, plugins: Plugins) -> dict[int, str]:
    """What the backend's own checks have against each degree, beyond what they have against all."""
    if found.parsed is None or not found.target.n_devices:
        return {}
    refusals = refusals_of(plugins, choice.info, found.artifacts, found.target)
    degrees = degrees_of(found.target.n_devices)
    compared = degrees if len(degrees) > 1 else [1, 2]  # what is said of one alone may have nothing to do with it
    said = {degree: refusals(found.settings.replaced(Setting(DEGREE, str(degree), "lmi plan"))) for degree in compared}
    always = set.intersection(*map(set, said.values()))
    return {degree: "; ".join(sorted(set(each) - always)) for degree, each in said.items()}
