# SPDX-License-Identifier: Apache-2.0
"""The stand-in of Neuron's libraries on the module search path: of this process for a while, and of others."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ArtifactError, EngineLoadError, Problem, Severity, Stepper
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.loading import LoadPlan, load_backend, plan
from lmi.plugins import Plugins
from tests.servers import ServerProcess, serve

STANDIN = Path(__file__).parents[1] / "standins" / "neuron"
CONTRACTS = STANDIN.parent / "contracts"
COMPILER = "2.16.345.0+69131dd3"
_PACKAGES = ("transformers_neuronx", "torch_neuronx", "optimum")


@contextlib.contextmanager
def standin_importable() -> Iterator[None]:
    """Let this process import the stand-in; afterwards it is as if it had never been there."""
    sys.path.insert(0, str(STANDIN))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(STANDIN))
        for name in [each for each in sys.modules if each.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        importlib.invalidate_caches()


def variables(**further: str) -> dict[str, str]:
    """Variables of a process that finds the stand-in."""
    path = os.pathsep.join(filter(None, [str(STANDIN), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, **further}


def write_machine(root: Path) -> Path:
    """The files by which a machine with two devices of two cores is known, below a root."""
    (root / "dev").mkdir(parents=True)
    for number in range(2):
        (root / "dev" / f"neuron{number}").touch()
        folder = root / "sys/devices/virtual/neuron_device" / f"neuron{number}"
        folder.mkdir(parents=True)
        (folder / "core_count").write_text("2\n")
    return root


@contextlib.contextmanager
def serving(
    machine: Path, *args: str, options: Mapping[str, Any] = {}, is_ready: bool = True, **environ: str
) -> Iterator[ServerProcess]:
    """A server on a machine with Neuron devices; ``options`` as ``-o`` takes them."""
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    found = variables(STANDIN_NEURON_ROOT=str(machine), **environ)
    with serve(*args, *flags, environ=found, is_ready=is_ready) as running:
        yield running


def recorded(path: Path, what: str = "") -> list[dict[str, Any]]:
    """What the stand-in noted down, of one kind or all of it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [each for each in lines if what in ("", each["what"])]


def planned(folder: Path, *, environ: Mapping[str, str] | None = None, **options: Any) -> LoadPlan:
    """How a model is loaded on a machine with two cores."""
    sizes = {"n_positions": 256, "max_rolling_batch_size": 4, "tensor_parallel_degree": 1}
    chosen = {"rolling_batch": "neuronx", **sizes, **options}
    flags = {name: as_text(value) for name, value in chosen.items() if value is not None}
    return plan(
        ModelEntry(url=str(folder)),
        flags=flags,
        environ={"HF_HUB_OFFLINE": "1", **(environ or {})},
        plugins=Plugins.discover({"LMI_EXTENSIONS": ""}),
        default_folder=folder / "none",
        devices="neuron:2",
    )


def loaded(made: LoadPlan) -> Stepper:
    """What steps a model in this process; its libraries must be importable."""
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""}, only_backend="neuronx")
    options = made.config.model_dump(mode="json")
    found = load_backend(plugins, "neuronx", made.artifacts, options, lambda stage, fraction=None: None)
    assert isinstance(found, Stepper)
    return found


def refusal(load: Callable[[], Any]) -> Problem:
    """The one thing that stops a load, before it or in it."""
    with pytest.raises((EngineLoadError, ArtifactError)) as caught:
        load()
    if isinstance(caught.value, ArtifactError):
        [problem] = [each for each in caught.value.problems if each.severity is Severity.ERROR]
        return problem
    return Problem(code=caught.value.code, message=caught.value.message, hint=caught.value.hint)
