# SPDX-License-Identifier: Apache-2.0
"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmi.api import Accelerator, Severity
from lmi.api.errors import counted
from lmi.planning.cache import CacheShape
from lmi.planning.estimates import Estimate
from lmi.planning.fit import Fit
from lmi.planning.load import Load
from lmi.planning.machines import Machine
from lmi.planning.ranking import Candidate
from lmi.planning.report import Plan
from lmi.planning.units import shown_bytes, shown_compiling, shown_seconds

_N_MACHINES = 5


def lines_of(plan: Plan) -> list[str]:
    """What is printed of a plan."""
    lines = [_first_line(plan), f"machine: {_machine_line(plan)}"]
    if plan.unknown:
        lines.append(f"memory: not reckoned, {plan.unknown}")
    if plan.estimate is not None:
        lines += _needs(plan.estimate)
        lines += ["", *_table(_degree_rows(plan, plan.estimate))]
    if plan.load is not None:
        lines += ["", *_load_lines(plan, plan.load)]
    if plan.machines:
        lines += ["", "machines that fit, by the memory of their devices (not by price):"]
        lines += _table(_machine_rows(plan.machines[:_N_MACHINES]))
    elif plan.estimate is not None:
        lines += ["", f"no machine that is known {'fits' if plan.load is None else 'meets the load'}"]
    if plan.candidates:
        lines += ["", "backends:", *_table(_backend_rows(plan.candidates))]
    if plan.start is not None:
        lines += ["", _start_line(plan)]
    lines += [f"{problem.severity.value}: {problem}" for problem in plan.problems]
    return [*lines, _last_line(plan)]


def _first_line(plan: Plan) -> str:
    kind = ""
    if plan.artifacts is not None:
        kind = f" ({', '.join(plan.artifacts.architectures) or plan.artifacts.format.value})"
    backend = "no backend" if plan.info is None else f"{plan.info.name}: {plan.reason}"
    return f"{plan.model}{kind}, {backend}"


def _machine_line(plan: Plan) -> str:
    target = plan.target
    memory = plan.estimate.fit.memory_bytes if plan.estimate is not None else target.device_memory_bytes
    size = shown_bytes(memory) if memory else "unknown memory"
    if target.accelerator is Accelerator.CPU:
        return f"cpu, {size} free" if memory else f"cpu, {size}"
    name = target.device_name or target.accelerator.value
    core = " cores" if target.accelerator is Accelerator.NEURON else ""
    return f"{target.instance}, ".removeprefix(", ") + f"{target.n_devices} x {name}{core} of {size}"


def _needs(found: Estimate) -> Iterator[str]:
    weights, sizing = found.weights, found.sizing
    kind = f"{weights.dtype}, {weights.quantization}" if weights.quantization else weights.dtype
    yield f"weights: {shown_bytes(weights.n_bytes)} in memory ({kind}), {shown_bytes(weights.stored_bytes)} stored"
    if weights.copied_bytes:
        yield (
            f"the output head, which is stored as one with the embedding, gets a copy of "
            f"{shown_bytes(weights.copied_bytes)} on a CPU"
        )
    whole = CacheShape.of(found.shape, sizing.cache_dtype)
    window = f", {found.shape.window_tokens} tokens at most in {counted(found.shape.n_window_layers, 'layer')}"
    yield f"cache: {whole.token_bytes:,} bytes a token ({sizing.cache_dtype})" + (
        window if found.shape.window_tokens else ""
    )


def _degree_rows(plan: Plan, found: Estimate) -> Iterator[tuple[str, ...]]:
    yield ("degree", "weights", "the rest", "cache", "longest", f"x {found.sizing.max_model_len} tokens", "copies", "")
    for fit in plan.fits:
        mark = "*" if fit.degree == found.fit.degree else ""
        row = (
            f"{mark}{fit.degree}",
            shown_bytes(fit.weight_bytes),
            shown_bytes(fit.activation_bytes + fit.overhead_bytes),
        )
        if fit.refusal or not found.is_memory_known:
            yield (*row, "-", "-", "-", "-", fit.refusal)
            continue
        copies = max(1, found.n_devices) // fit.degree
        cache = shown_bytes(fit.cache_bytes) if fit.holds_weights else "-"
        yield (*row, cache, str(fit.most_tokens), str(fit.n_sequences), str(copies), _verdict(fit))


def _verdict(fit: Fit) -> str:
    if fit.fits:
        return "fits"
    if fit.holds_weights:
        return f"fits with max_model_len={fit.most_tokens // 64 * 64 or fit.most_tokens}"
    return f"does not fit, {shown_bytes(-fit.cache_bytes)} too little"


def _load_lines(plan: Plan, load: Load) -> Iterator[str]:
    demand, met = load.demand, load.answer
    asked = f"{demand.concurrency} x ({demand.input_tokens} + {demand.output_tokens}) tokens"
    if plan.is_possible is None:
        yield f"load: {asked}; how it is met depends on the memory of a device"
        return
    if met is None:
        yield f"load: {asked} cannot be met as it is configured, with however many machines"
    else:
        where = f"{_copies(met.n_copies)} on {counted(met.n_machines, 'machine')}"
        yield (
            f"load: {asked} take {shown_bytes(met.cache_bytes)} of cache: tensor_parallel_degree={met.fit.degree}, "
            f"{counted(met.n_sequences, 'sequence')} a copy, {where}"
        )
    yield from (f"load: {each}" for each in load.advice)


def _copies(n: int) -> str:
    return "1 copy" if n == 1 else f"{n} copies"


def _machine_rows(machines: Sequence[Machine]) -> Iterator[tuple[str, ...]]:
    yield ("instance", "devices", "memory", "degree", "copies", "sequences a copy", "")
    for each in machines:
        instance = each.instance
        cores = " cores" if instance.accelerator is Accelerator.NEURON else ""
        yield (
            instance.name,
            f"{instance.n_devices} x {instance.device}{cores}",
            shown_bytes(instance.total_memory_bytes),
            str(each.fit.degree),
            str(each.n_copies),
            str(each.fit.n_sequences),
            "NVLink" if instance.has_nvlink else "",
        )


def _backend_rows(candidates: Sequence[Candidate]) -> Iterator[tuple[str, ...]]:
    yield ("backend", "package", "image", "", "why")
    for each in candidates:
        package = each.package if each.is_installed else f"pip install {each.package}"
        yield (each.name, package, each.image or "-", "yes" if each.takes else "no", each.reason)


def _start_line(plan: Plan) -> str:
    start = plan.start
    assert start is not None  # noqa: S101 - the caller looked
    compiling = f", after compiling for {shown_compiling(start.compile_s)}" if start.compile_s else ""
    return f"start: about {shown_seconds(start.load_s)}{compiling}, {start.assumption}"


def _last_line(plan: Plan) -> str:
    if plan.is_possible is None:
        return f"{plan.model}: cannot tell whether it fits"
    errors = sum(problem.severity is Severity.ERROR for problem in plan.problems)
    told = f" ({counted(errors, 'problem')})" if errors else ""
    verdicts = ("does not fit", "fits") if plan.load is None else ("does not meet the load", "meets the load")
    return f"{plan.model}: {verdicts[plan.is_possible]}{told}"


def _table(rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; all but the last one."""
    listed = list(rows)
    widths = [max(len(row[i]) for row in listed) for i in range(len(listed[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in listed]
