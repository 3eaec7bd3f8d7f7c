# SPDX-License-Identifier: Apache-2.0
"""Stand-in: what adapters are made room for, as recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoraConfig:
    lora_dir: Any = field(default_factory=list)
    lora_ckpt_source: Any = "hf"
    max_lora_rank: Any = 64
    lora_target_modules: Any = field(default_factory=list)
    trtllm_modules_to_hf_modules: Any = field(default_factory=dict)
    max_loras: Any = None
    max_cpu_loras: Any = None
    swap_gate_up_proj: Any = True
