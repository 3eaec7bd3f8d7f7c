# SPDX-License-Identifier: Apache-2.0
"""Calls of the library's classes as plain data: what will be called can be looked at where the library is not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ARGUMENTS = "tensorrt_llm.llmapi.llm_args"

MODULES = {
    "BatchingType": _ARGUMENTS,
    "BuildConfig": "tensorrt_llm.builder",
    "CalibConfig": _ARGUMENTS,
    "CapacitySchedulerPolicy": _ARGUMENTS,
    "CudaGraphConfig": _ARGUMENTS,
    "ExtendedRuntimePerfKnobConfig": _ARGUMENTS,
    "KvCacheConfig": _ARGUMENTS,
    "LoraConfig": "tensorrt_llm.lora_helper",
    "PluginConfig": "tensorrt_llm.plugin.plugin",
    "QuantAlgo": "tensorrt_llm.quantization.mode",
    "QuantConfig": "tensorrt_llm.models.modeling_utils",
    "SchedulerConfig": _ARGUMENTS,
}
"""Class or enumeration -> where it is defined."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of one of the library's classes by keywords.

    Args:
        name: in MODULES.
        keywords: name -> value, which may be a Call or a Member.
    """

    name: str
    keywords: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of one of the library's enumerations."""

    name: str
    member: str


def made(value: Any) -> Any:
    """A value with every Call in it called. Imports the library."""
    if isinstance(value, Member):
        return getattr(_class(value.name), value.member)
    if not isinstance(value, Call):
        return value
    keywords = {name: made(each) for name, each in value.keywords.items()}
    if value.name != "PluginConfig":
        return _class(value.name)(**keywords)
    plugins = _class(value.name)()  # its keywords changed between releases, the names of its attributes did not
    for name, each in keywords.items():
        setattr(plugins, name, each)
    return plugins


def calls_in(value: Any) -> Iterator[Call | Member]:
    """A value's calls and members of enumerations, the inner ones included."""
    if isinstance(value, Call):
        yield value
        for each in value.keywords.values():
            yield from calls_in(each)
    elif isinstance(value, Member):
        yield value


def plain(value: Any) -> Any:
    """A value as JSON can hold it, the same for equal calls."""
    if isinstance(value, Call):
        return {value.name: {name: plain(each) for name, each in sorted(value.keywords.items())}}
    return f"{value.name}.{value.member}" if isinstance(value, Member) else value


def _class(name: str) -> Any:
    return getattr(importlib.import_module(MODULES[name]), name)
