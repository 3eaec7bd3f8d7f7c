# SPDX-License-Identifier: Apache-2.0
"""Every further argument of vLLM's engine as a typed option; the list is arguments.json."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from lmi.api import BackendConfig, option

_TYPES: dict[str, Any] = {
    "switch": bool,
    "int": int,
    "float": float,
    "text": str,
    "list": list[str],
    "int_list": list[int],
    "map": dict[str, Any],
}


def read_record() -> dict[str, Any]:
    """What is known of the arguments of vLLM's engine: ``version`` of vLLM, ``arguments`` that are passed on as they
    are, ``of_lmi`` that have an option of LMI's own, and names ``not_passed``."""
    text = resources.files("lmi_vllm").joinpath("arguments.json").read_text("utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def read_arguments() -> dict[str, dict[str, Any]]:
    """Name -> type, default, unit, bounds and description of each argument that is passed on as it is."""
    arguments: dict[str, dict[str, Any]] = read_record()["arguments"]
    return arguments


def _field(entry: dict[str, Any]) -> tuple[Any, Any]:
    kind = _TYPES.get(entry["type"]) or Literal[tuple(entry["choices"])]
    bounds = {key: entry[key] for key in ("ge", "le", "gt") if key in entry}
    default = entry["default"]
    made = option(default, description=entry["description"], unit=entry.get("unit", ""), **bounds)
    return (kind | None if default is None else kind), made


if TYPE_CHECKING:

    class EngineArguments(BackendConfig):
        """Further arguments of vLLM's engine."""

else:
    from pydantic import create_model

    EngineArguments = create_model(
        "EngineArguments",
        __base__=BackendConfig,
        __module__=__name__,
        **{name: _field(entry) for name, entry in read_arguments().items()},
    )

__all__ = ["EngineArguments", "read_arguments", "read_record"]
