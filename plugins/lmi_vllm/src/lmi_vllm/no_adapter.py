# SPDX-License-Identifier: Apache-2.0
"""An adapter that changes nothing, for requests that name none.

On CPU vLLM answers a request without an adapter, beside one with an adapter, with whichever adapter holds the last
place: its kernels take "none", -1, for an index from the end. So none is an adapter, too.
Source: vLLM 0.32, lora/ops/torch_ops/lora_ops.py and lora/punica_wrapper/utils.py.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
_METADATA = "__metadata__"
_MOST_HEADER_BYTES = 100 << 20
"""What safetensors itself takes."""


def write_no_adapter(folder: Path, adapter: Path) -> None:
    """Write an adapter without effect: for the matrices that another one has, of rank 1, all zeros.

    Args:
        folder: is there, and empty.
        adapter: the other one. One that is not stored as safetensors is copied whole, and scaled by nothing.
    Raises:
        OSError, ValueError, KeyError: its files cannot be read.
    """
    config = {**json.loads((adapter / _CONFIG).read_text("utf-8")), "lora_alpha": 0, "alpha_pattern": {}}
    if (adapter / _WEIGHTS).exists():
        config |= {"r": 1, "rank_pattern": {}}
        (folder / _WEIGHTS).write_bytes(_zeros(_header(adapter / _WEIGHTS)))
    else:
        for file in adapter.glob("adapter_model.*"):
            shutil.copyfile(file, folder / file.name)
    (folder / _CONFIG).write_text(json.dumps(config), "utf-8")


def _header(file: Path) -> dict[str, Any]:
    """Names, types and shapes of what a safetensors file holds."""
    with file.open("rb") as opened:
        (n_bytes,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        header = json.loads(opened.read(min(n_bytes, _MOST_HEADER_BYTES)))
    if not isinstance(header, dict):
        raise ValueError(f"{file} is no safetensors file")
    return {name: tensor for name, tensor in header.items() if name != _METADATA}


def _zeros(header: dict[str, Any]) -> bytes:
    """A safetensors file of the same matrices with rank 1: the first side of the A ones, the last of the B ones."""
    found: dict[str, Any] = {}
    end = 0
    for name, tensor in header.items():
        shape = list(tensor["shape"])
        shape[0 if "lora_A" in name or "embedding_A" in name else -1] = 1
        start, end = end, end + math.prod(shape) * _BITS[tensor["dtype"]] // 8
        found[name] = {"dtype": tensor["dtype"], "shape": shape, "data_offsets": [start, end]}
    said = json.dumps(found).encode()
    return struct.pack("<Q", len(said)) + said + bytes(end)
