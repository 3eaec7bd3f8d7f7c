# SPDX-License-Identifier: Apache-2.0
"""Whether lines are documents of CloudWatch's embedded metric format, as its specification says."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema

MOST_VALUES = 100

_TEXT = {"type": "string", "minLength": 1, "maxLength": 1024}
_UNITS = (
    "Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits|"
    "Terabits|Percent|Count|Bytes/Second|Kilobytes/Second|Megabytes/Second|Gigabytes/Second|Terabytes/Second|"
    "Bits/Second|Kilobits/Second|Megabits/Second|Gigabits/Second|Terabits/Second|Count/Second|None"
)
_DEFINITION = {
    "type": "object",
    "required": ["Name"],
    "additionalProperties": False,
    "properties": {
        "Name": _TEXT,
        "Unit": {"type": "string", "pattern": f"^({_UNITS})$"},
        "StorageResolution": {"enum": [1, 60]},
    },
}
_DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "additionalProperties": False,
    "properties": {
        "Namespace": {**_TEXT, "maxLength": 255},
        "Dimensions": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "maxItems": 9, "items": {**_TEXT, "maxLength": 250}},
        },
        "Metrics": {"type": "array", "maxItems": 100, "items": _DEFINITION},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "items": _DIRECTIVE},
            },
        }
    },
}


def document(line: str | bytes) -> dict[str, Any]:
    """One line as a document, after it was judged by the schema and by the rules that a schema cannot tell.

    Raises:
        AssertionError, ValidationError: it is none.
    """
    found: dict[str, Any] = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    for directive in found["_aws"]["CloudWatchMetrics"]:
        names = [each["Name"] for each in directive["Metrics"]]
        assert len(set(names)) == len(names)
        for name in names:  # targets are members of the root: a number, or up to 100 numbers
            values = found[name] if isinstance(found[name], list) else [found[name]]
            assert 0 < len(values) <= MOST_VALUES, name
            assert all(type(each) in (int, float) for each in values), name
        for dimension in {name for names in directive["Dimensions"] for name in names}:
            assert re.fullmatch(r"[ -~]{1,1024}", found[dimension]), dimension
    return found


def documents(output: str) -> list[dict[str, Any]]:
    """All of them in what a process wrote, each on a line of its own."""
    return [document(line) for line in output.splitlines() if line.startswith("{")]


def metrics_of(found: dict[str, Any]) -> dict[str, Any]:
    """What a document tells, by name."""
    [directive] = found["_aws"]["CloudWatchMetrics"]
    return {each["Name"]: found[each["Name"]] for each in directive["Metrics"]}
