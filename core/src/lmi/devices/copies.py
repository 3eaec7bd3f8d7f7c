# SPDX-License-Identifier: Apache-2.0
"""How many copies of a model run, and which devices each of them gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lmi.api import Accelerator, BackendInfo, Problem, Severity, Target
from lmi.api.errors import counted
from lmi.api.machine import COPY
from lmi.config.options import ModelOptions
from lmi.config.settings import Settings
from lmi.config.typed import config_error
from lmi.devices import cuda, neuron
from lmi.devices.degree import is_mpi
from lmi.devices.hostfile import n_devices_here
from lmi.plugins.fit import elsewhere
from lmi.target import DEGREE, Part, devices_of, split_text, too_few_devices

THREADS = "OMP_NUM_THREADS"
_KEYS = ("minWorkers", "maxWorkers")


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The copies of one model on one machine.

    Args:
        accelerator: kind of the devices.
        slices: the devices of each copy, by the names the variables give them; more than ``n_min`` where further
            copies may start. Empty on CPU, which is not divided.
        n_min: copies that are started.
        n_max: most copies.
        variables: further variables that every worker gets.
        problems: what is wrong or doubtful about the numbers.
    """

    accelerator: Accelerator = Accelerator.CPU
    slices: tuple[tuple[str, ...], ...] = ()
    n_min: int = 1
    n_max: int = 1
    variables: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()

    def applied(self, options: ModelOptions) -> ModelOptions:
        """The options with the numbers of copies that hold."""
        return options.model_copy(update={"min_workers": self.n_min, "max_workers": self.n_max})

    def slice_of(self, index: int) -> tuple[str, ...]:
        """The devices of a copy, the same at every start of it; copies beyond the slices share them in turn."""
        return self.slices[index % len(self.slices)] if self.slices else ()

    def environ_of(self, index: int) -> dict[str, str]:
        """The variables that show a copy its devices, and no others.

        On CPU every GPU is hidden, since an engine takes what it finds, and several copies are told apart, since they
        share the cores. Neuron's runtime has no such value, and takes
        no core unless an engine for it is loaded.
        """
        if self.accelerator is Accelerator.CPU:
            n_copies = max(self.n_min, self.n_max)
            share = {COPY: f"{index % n_copies}/{n_copies}"} if n_copies > 1 else {}
            return {cuda.VISIBLE: "", **share}
        devices = self.slice_of(index)
        if not devices:
            return {}
        shown = {cuda.VISIBLE: ",".join(devices)}
        if self.accelerator is Accelerator.NEURON:
            shown = {neuron.VISIBLE: _ranges(devices)}
        return {**shown, **dict(self.variables)}

    def label_of(self, index: int) -> str:
        """The devices of a copy for people, ``cuda:0,1``; empty on CPU."""
        devices = self.slice_of(index)
        return f"{self.accelerator.value}:{','.join(devices)}" if devices else ""


def copies_of(
    settings: Settings,
    options: ModelOptions,
    degree: int,
    info: BackendInfo,
    target: Target,
    environ: Mapping[str, str],
) -> Copies:
    """Divide the devices among copies of a model.

    Args:
        settings: as they hold on this machine.
        options: the typed ones.
        degree: devices of one copy.
        info: the backend.
        target: the machine.
        environ: variables of the server.
    """
    if target.accelerator is Accelerator.CPU:
        hidden = tuple(_set_by_user(options, settings, target))
        return Copies(n_min=options.min_workers, n_max=options.max_workers, problems=hidden)
    devices = devices_of(target)
    n_here = n_devices_here(settings, degree)
    is_spread = n_here < degree  # over machines whose slots are for one copy
    n_slices = min(1, len(devices) // n_here) if is_spread else len(devices) // n_here
    slices = tuple(devices[place * n_here : (place + 1) * n_here] for place in range(n_slices))
    # Where nothing is set every slice has a copy; where one end is set the other gives way.
    is_set = [key in settings for key in _KEYS]
    n_max = options.max_workers if is_set[1] else max(n_slices, options.min_workers if is_set[0] else 1)
    n_min = options.min_workers if is_set[0] else max(1, min(n_slices, n_max))
    problems: list[Problem] = []
    if not elsewhere(info, target):  # otherwise the numbers are no matter
        problems += _too_many(settings, options, degree, n_slices, target, is_mpi(settings, info))
        n_idle = len(devices) - n_slices * degree
        problems += _idle(n_idle, degree, settings, has_copies=n_slices > 0 and not is_spread)
        problems += _set_by_user(options, settings, target)
    variables = _variables(settings, options, degree, environ, target)
    return Copies(
        accelerator=target.accelerator, slices=slices, n_min=n_min, n_max=n_max, variables=variables,
        problems=tuple(problems),
    )  # fmt: skip


def copies_of_custom(
    settings: Settings, options: ModelOptions, info: BackendInfo, target: Target, environ: Mapping[str, str]
) -> Copies:
    """The same for a model whose own code reads the degree; what is left in ``problems`` are warnings.

    Raises:
        ConfigError: there are too few devices, or another mistake.
    """
    degree = settings.text(DEGREE) or "1"
    n_devices = int(degree) if degree.isdecimal() and int(degree) else 1
    anywhere = replace(info, accelerators=tuple(Accelerator))
    copies = copies_of(settings, options, n_devices, anywhere, target, environ)
    problems = [*too_few_devices(settings, target), *copies.problems]
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        raise config_error(errors)
    return copies


def _too_many(
    settings: Settings, options: ModelOptions, degree: int, n_slices: int, target: Target, is_mpi: bool
) -> Iterator[Problem]:
    """More copies than the devices hold; copies of one process on one device may share it."""
    numbers = zip(_KEYS, (options.min_workers, options.max_workers), strict=True)
    key, wanted = next(((key, n) for key, n in numbers if key in settings and n > n_slices), ("", 0))
    if not key or not n_slices:  # the degree alone is too much, which is said elsewhere
        return
    devices = counted(target.n_devices, f"{target.accelerator.value} device")
    there = f"the {devices} {'that may be used' if isinstance(target, Part) else 'here'} hold"
    there += f"{'s' if target.n_devices == 1 else ''} {'1 copy' if n_slices == 1 else f'{n_slices} copies'}"
    if degree == 1 and not is_mpi:
        yield Problem(
            code="device.shared",
            message=f"{key}={wanted}, and {there}, so some copies share a device",
            hint=f"Set it to {n_slices} or less if a device has no memory for two",
            source=settings[key].source,
            severity=Severity.WARNING,
        )
        return
    degree_source = settings[DEGREE].source if DEGREE in settings else "the default"
    yield Problem(
        code="device.too-many-workers",
        message=f"{key}={wanted}, and {there} of {counted(degree, 'device')} each ({split_text(settings, degree)}, "
        f"{degree_source})",
        hint=f"Set {key} to {n_slices} or less" + (", or lower tensor_parallel_degree" if degree > 1 else ""),
        source=settings[key].source,
    )


def _idle(n_idle: int, degree: int, settings: Settings, *, has_copies: bool) -> Iterator[Problem]:
    if n_idle and has_copies:
        message = f"{counted(n_idle, 'device')} will be idle: the number of devices is no multiple of {degree}"
        yield Problem(
            code="device.idle",
            message=message,
            hint="Set tensor_parallel_degree to a number that divides it",
            source=settings[DEGREE].source if DEGREE in settings else "",
            severity=Severity.WARNING,
        )


def _set_by_user(options: ModelOptions, settings: Settings, target: Target) -> Iterator[Problem]:
    """A variable in ``option.env`` that LMI sets for each copy."""
    ours = (neuron.VISIBLE, neuron.NUMBER) if target.accelerator is Accelerator.NEURON else (cuda.VISIBLE,)
    is_cpu = target.accelerator is Accelerator.CPU
    for name in ours:
        if is_cpu and not cuda.hides_all(options.env.get(name, "")):
            yield Problem(
                code="config.conflict",
                message=f"option.env sets {name}={options.env[name]}, and the model is to run on CPU, where LMI hides "
                "every GPU",
                hint="Take it out of option.env",
                source=settings["option.env"].source if "option.env" in settings else "",
            )
        elif name in options.env and not is_cpu:
            yield Problem(
                code="config.conflict",
                message=f"option.env sets {name}={options.env[name]}, which LMI sets for each copy from "
                "tensor_parallel_degree and load_on_devices",
                hint=f"Take it out of option.env; set {name} for the server, or load_on_devices, to keep off devices",
                source=settings["option.env"].source if "option.env" in settings else "",
            )


def _variables(
    settings: Settings, options: ModelOptions, degree: int, environ: Mapping[str, str], target: Target
) -> tuple[tuple[str, str], ...]:
    """What goes with a list of devices: how CUDA counts; on Neuron the threads of a copy, and the number of its cores
    where the server was told another one."""
    variables: list[tuple[str, str]] = []
    if target.accelerator is not Accelerator.NEURON:
        # The driver's numbers are those of the bus; left to itself, CUDA counts the fastest GPU first.
        return () if cuda.ORDER in environ or cuda.ORDER in options.env else ((cuda.ORDER, cuda.BY_BUS),)
    if THREADS not in environ and THREADS not in options.env:
        is_split = DEGREE in settings and not (degree == 1 and settings[DEGREE].source.startswith("default"))
        variables.append((THREADS, str(2 * degree if is_split else 1)))
    if neuron.NUMBER in environ:
        variables.append((neuron.NUMBER, str(degree)))
    return tuple(variables)


def _ranges(cores: tuple[str, ...]) -> str:
    """``0-3`` for cores in a row, ``0,2-3`` for others."""
    runs: list[list[int]] = []
    for core in map(int, cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
