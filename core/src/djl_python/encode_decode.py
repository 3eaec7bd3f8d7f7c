# SPDX-License-Identifier: Apache-2.0
"""Content by its type: ``decode`` reads a request, ``encode`` writes an answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

_CSV_COLUMNS = ("question", "context", "inputs")


def decode(inputs: Input, content_type: str | None, key: str | None = None) -> Any:
    """The content of a request, read as the predecessor's own handlers did; what is no JSON is under ``inputs``.

    Raises:
        ValueError: the content is not what its type says.
    """
    kind = (content_type or "").lower()
    if not kind:
        return inputs.get_as_json(key) if inputs.get_as_bytes(key) else {"inputs": ""}
    if "application/json" in kind:
        return inputs.get_as_json(key)
    if "text/csv" in kind:
        return _decode_csv(inputs.get_as_string(key))
    if "text/plain" in kind:
        return {"inputs": [inputs.get_as_string(key)]}
    read = next((read for prefix, read in _READERS.items() if kind.startswith(prefix)), Input.get_as_bytes)
    return {"inputs": read(inputs, key)}


_READERS: dict[str, Callable[[Input, str | None], Any]] = {
    "image/": Input.get_as_image,
    "tensor/npz": Input.get_as_npz,
    "tensor/ndlist": Input.get_as_numpy,
    "application/x-npy": Input.get_as_numpy,
    "application/x-www-form-urlencoded": Input.get_as_string,
}


def _decode_csv(text: str) -> dict[str, Any]:
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0]) if rows else text.splitlines()[:1]
    if not any(column.lower() in _CSV_COLUMNS for column in columns):
        raise ValueError(f"the table has the columns {columns}; one of {', '.join(_CSV_COLUMNS)} is needed")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in columns else rows}


def encode(outputs: Output, prediction: Any, content_type: str | None, key: str | None = None) -> Output:
    """Add a prediction in the wanted form: JSON unless ``text/csv``, ``tensor/npz`` or another tensor type is asked."""
    kind = (content_type or "application/json").lower()
    if "application/json" in kind or "*/*" in kind:
        outputs.add_as_json(prediction, key=key)
    elif "text/csv" in kind:
        file = io.StringIO()
        rows = prediction if isinstance(prediction, list) else [prediction]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        outputs.add_as_string(file.getvalue(), key=key)
        return outputs.add_property("Content-Type", "text/csv")
    elif "tensor/npz" in kind:
        outputs.add_as_npz(prediction, key=key)
    else:
        outputs.add_as_numpy(prediction, key=key)
    return outputs.add_property("Content-Type", outputs.content_types[-1])
