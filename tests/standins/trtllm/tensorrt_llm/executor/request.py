# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the adapter of a request, as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class LoRARequest:
    lora_name: Any
    lora_int_id: Any
    lora_path: Any = ""

    def __post_init__(self) -> None:
        if self.lora_path and not Path(self.lora_path).exists():
            raise ValueError(f"lora_path ({self.lora_path}) does not exist.")
