# SPDX-License-Identifier: Apache-2.0
"""A backend's options as a Markdown table, for its README."""

from __future__ import annotations

from typing import Any, get_args

from pydantic.fields import FieldInfo

from lmi.api import BackendConfig
from lmi.config.coerce import as_text, choices

END = "<!-- end -->"
"""The line below the table in a README."""


def begin(backend: str) -> str:
    """The line above the table of a backend's options in a README."""
    return f"<!-- generated: options:{backend} -->"


def options_table(config_type: type[BackendConfig]) -> str:
    """One row an option: key and further names, unit, default, what it does and which values it takes."""
    rows = ["| option | unit | default | meaning |", "|---|---|---|---|"]
    for name, info in config_type.model_fields.items():
        extra: dict[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        further = "".join(f", `{alias}`" for alias in extra.get("aliases", []))
        cells = [f"`option.{name}`{further}", extra.get("unit", ""), _default(info), _meaning(info)]
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "must be set"
    value = info.get_default(call_default_factory=True)
    return "unset" if value in (None, "") else f"`{as_text(value)}`"


def _meaning(info: FieldInfo) -> str:
    text = " ".join((info.description or "").split()).replace("|", "\\|")
    names = choices(info.annotation)
    if names:
        text += f" One of {', '.join(f'`{name}`' for name in names)}."
    is_switch = bool in {info.annotation, *get_args(info.annotation)}
    return f"{text} `true` or `false`." if is_switch else text
