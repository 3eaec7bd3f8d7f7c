# SPDX-License-Identifier: Apache-2.0
"""Options as Markdown tables: a backend's for its README, the core's, and keys of LMI that are none here."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lmi.config.coerce import as_text, choices
from lmi.config.fields import main_key
from lmi.config.unsupported import NOT_SUPPORTED, NOT_SUPPORTED_VALUES, OF_NO_USE, Known

END = "<!-- end -->"
"""The line below the table in a README."""


def begin(backend: str) -> str:
    """The line above the table of a backend's options in a README."""
    return f"<!-- generated: options:{backend} -->"


def options_table(config_type: type[BaseModel]) -> str:
    """One row an option: key and further names, unit, default, what it does and which values it takes."""
    rows = ["| option | unit | default | meaning |", "|---|---|---|---|"]
    for name, info in config_type.model_fields.items():
        extra: dict[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        further = "".join(f", `{alias}`" for alias in extra.get("aliases", []))
        cells = [f"`{main_key(name, info)}`{further}", extra.get("unit", ""), _default(info), _meaning(info)]
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows)


def unsupported_table() -> str:
    """One row a key of LMI that is no option here: why, what to do, and which values are taken in silence."""
    refused = {f"{key}={value}": known for (key, value), known in NOT_SUPPORTED_VALUES.items()}
    rows = ["| key | what becomes of it | instead | taken in silence |", "|---|---|---|---|"]
    rows += [_known_row(key, known, "not supported") for key, known in {**NOT_SUPPORTED, **refused}.items()]
    rows += [_known_row(key, known, "of no use") for key, known in OF_NO_USE.items()]
    return "\n".join(rows)


def _known_row(key: str, known: Known, what: str) -> str:
    silent = "" if "=" in key else ", ".join(f"`{value}`" for value in known.harmless)
    return f"| `{key}` | {what}: {known.reason} | {known.hint} | {silent} |".replace("|  |", "| |")


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
