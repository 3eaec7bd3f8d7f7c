# SPDX-License-Identifier: Apache-2.0
"""Stand-in: how weights are compressed, as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class QuantConfig:
    quant_algo: Any = None
    kv_cache_quant_algo: Any = None
    group_size: Any = 128
    smoothquant_val: Any = 0.5
    clamp_val: Any = None
    use_meta_recipe: Any = False
    has_zero_point: Any = False
    pre_quant_scale: Any = False
    exclude_modules: Any = None
    mamba_ssm_cache_dtype: Any = None
