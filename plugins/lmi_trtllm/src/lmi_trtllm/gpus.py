# SPDX-License-Identifier: Apache-2.0
"""GPUs by their compute capability: what a machine has, and what the name of a folder tells of the one before."""

from __future__ import annotations

import re

from lmi.api import ModelArtifacts, Target
from lmi_trtllm.built import BuiltEngines

LEAST = "8.0"
"""Of the GPUs that TensorRT-LLM 1.x runs on: Ampere and later."""

LEAST_FOR_FP8 = "8.9"

_CAPABILITY_OF = {
    "v100": "7.0", "t4": "7.5", "a10": "8.6", "a10g": "8.6", "a30": "8.0", "a100": "8.0", "a6000": "8.6",
    "l4": "8.9", "l40": "8.9", "l40s": "8.9", "h100": "9.0", "h200": "9.0", "gh200": "9.0", "b200": "10.0",
    "gb200": "10.0", "b300": "10.3", "gb300": "10.3",
}  # fmt: skip
"""What a GPU is sold as -> compute capability. Source: NVIDIA's list of CUDA GPUs."""

_CAPABILITY_OF_INSTANCE = {
    "p3": "7.0", "p3dn": "7.0", "g4dn": "7.5", "g5": "8.6", "p4d": "8.0", "p4de": "8.0", "g6": "8.9", "g6e": "8.9",
    "p5": "9.0", "p5e": "9.0", "p5en": "9.0",
}  # fmt: skip
"""Family of instances -> compute capability of its GPUs."""

_WORD = re.compile(r"[a-z0-9]+")
_SM = re.compile(r"sm(\d{1,2})(\d)a?")


def capability_here(target: Target) -> str:
    """The compute capability of a machine's GPUs, ``8.6``; empty where it is not known."""
    if target.compute_capability:
        return target.compute_capability
    words = _WORD.findall(target.device_name.lower())
    found = next((_CAPABILITY_OF[word] for word in words if word in _CAPABILITY_OF), "")
    return found or _CAPABILITY_OF_INSTANCE.get(target.instance.removeprefix("ml.").partition(".")[0], "")


def is_older(capability: str, least: str) -> bool:
    """Whether a known compute capability is below another one."""
    return bool(capability) and _numbers(capability) < _numbers(least)


def named_capability(artifacts: ModelArtifacts, engines: BuiltEngines) -> tuple[str, str]:
    """A compute capability that the model's folder or a file beside the engines is named after, and the name."""
    folder = artifacts.folder.rstrip("/").rpartition("/")[2]
    beside = [name.rpartition("/")[2] for name in artifacts.files if name.rpartition("/")[0] == engines.folder]
    for name in (folder, *beside):
        for word in _WORD.findall(name.lower()):
            sm = _SM.fullmatch(word)
            found = f"{sm[1]}.{sm[2]}" if sm else _CAPABILITY_OF.get(word) or _CAPABILITY_OF_INSTANCE.get(word)
            if found:
                return found, name
    return "", ""


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", capability))
