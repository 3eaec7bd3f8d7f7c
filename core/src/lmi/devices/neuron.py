# SPDX-License-Identifier: Apache-2.0
"""AWS's NeuronCores, as the driver counts them and as the Neuron runtime's variables show them.

Source: the configuration guide of the Neuron runtime, and the driver's files under /sys.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lmi.api import Problem

VISIBLE = "NEURON_RT_VISIBLE_CORES"
NUMBER = "NEURON_RT_NUM_CORES"

_N_CORES_OF_A_DEVICE = 2
"""Of Inferentia2 and Trainium1, where nothing on the machine says."""

_GROUPING_VARIABLES = ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE")
_GROUPED = {"Trainium2": 2, "Trainium3": 2}
"""Physical cores that the runtime shows as one, where no variable says otherwise."""

_LIST_TOOL = "opt/aws/neuron/bin/neuron-ls"
_LIST_TOOL_S = 10.0


def visible_cores(environ: Mapping[str, str], root: Path) -> tuple[list[str], list[Problem]]:
    """The numbers of the cores that a process with these variables may use, and what is wrong with the variables.

    Args:
        environ: NEURON_RT_VISIBLE_CORES (``0-3``, ``0,2-3``) beats NEURON_RT_NUM_CORES, as in the runtime.
        root: where /dev, /sys and /opt are.
    """
    n_cores = _n_cores(environ, root)
    there = [str(number) for number in range(n_cores)]
    text, number = environ.get(VISIBLE, "").strip(), environ.get(NUMBER, "").strip()
    if not n_cores or not (text or number):
        return there, []
    if not text:
        return _first_of(there, number)
    source = f"{VISIBLE}={text}"
    named = _numbers(text)
    if named is None:
        message = f"{VISIBLE} is {text!r}, which is no list of cores"
        return there, [Problem(code="device.unknown", message=message, hint="Write 0-3, or 0,2-3", source=source)]
    problems = []
    if len(named) > n_cores:
        problems = [_too_many(VISIBLE, len(named), n_cores, source)]
    elif max(named) >= n_cores:
        message = f"{VISIBLE} names core {max(named)}, and this machine has cores 0 to {n_cores - 1}"
        problems = [Problem(code="device.unknown", message=message, hint="Name cores that are there", source=source)]
    return [str(each) for each in dict.fromkeys(named) if each < n_cores], problems


def device_name(root: Path) -> str:
    """What the devices are, ``Inferentia2``; empty where the driver does not say."""
    return _first_line(_driver_folder(root) / "info/architecture/device_name")


def _first_of(there: list[str], number: str) -> tuple[list[str], list[Problem]]:
    source = f"{NUMBER}={number}"
    if not number.isdecimal():
        message = f"{NUMBER} is {number!r}, which is no number of cores"
        return there, [Problem(code="device.unknown", message=message, hint="Give a number", source=source)]
    wanted = int(number) or len(there)  # the runtime takes 0 for all
    problems = [_too_many(NUMBER, wanted, len(there), source)] if wanted > len(there) else []
    return there[:wanted], problems


def _too_many(variable: str, n_wanted: int, n_cores: int, source: str) -> Problem:
    return Problem(
        code="device.too-many-visible",
        message=f"{variable} asks for {n_wanted} NeuronCores, and this machine has {n_cores}",
        hint=f"Ask for at most {n_cores}, or take the variable out",
        source=source,
    )


def _numbers(text: str) -> list[int] | None:
    """``0,2-4`` as numbers; None where it is no such list."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            return None
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def _n_cores(environ: Mapping[str, str], root: Path) -> int:
    n_devices = sum(re.fullmatch(r"neuron\d+", path.name) is not None for path in (root / "dev").glob("neuron*"))
    if not n_devices:
        return 0
    text = _first_line(_driver_folder(root) / "core_count")
    if not text.isdecimal() or not int(text):
        return _n_listed(root) or n_devices * _N_CORES_OF_A_DEVICE
    wanted = next((environ[name] for name in _GROUPING_VARIABLES if environ.get(name, "").isdecimal()), "")
    n_grouped = int(wanted or _GROUPED.get(device_name(root), 1)) or 1
    return n_devices * (int(text) // n_grouped)


def _n_listed(root: Path) -> int:
    """What the tool of Neuron's own counts; 0 where it is not there or does not answer."""
    tool = root / _LIST_TOOL
    if not tool.is_file():
        return 0
    try:
        ran = subprocess.run([str(tool), "--json-output"], capture_output=True, timeout=_LIST_TOOL_S, check=True)
        devices = json.loads(ran.stdout)
        return sum(int(each["nc_count"]) // int(each.get("logical_neuroncore_config") or 1) for each in devices)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def _driver_folder(root: Path) -> Path:
    return root / "sys/devices/virtual/neuron_device/neuron0"


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
