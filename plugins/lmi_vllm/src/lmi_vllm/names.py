# SPDX-License-Identifier: Apache-2.0
"""Names of quantization methods, and how users spell them."""

from __future__ import annotations

import difflib
from typing import Any

COMPRESSED = {
    "awq": ("awq", "auto_awq", "awq_marlin"),
    "gptq": ("gptq", "auto_gptq", "gptq_marlin"),
    "compressed-tensors": ("compressed-tensors",),
    "modelopt": ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"),
    "quark": ("quark",),
    "mxfp4": ("mxfp4", "gpt_oss_mxfp4"),
    "fbgemm_fp8": ("fbgemm_fp8",),
    "fp_quant": ("fp_quant",),
    "deepseek_v4_fp8": ("deepseek_v4_fp8",),
}
"""Family -> methods that read a checkpoint which was compressed so."""

WHILE_LOADING = (
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token",
    "mxfp8", "experts_int8", "torchao", "online",
)  # fmt: skip
"""Methods that compress 16-bit weights while they load; some read compressed checkpoints, too."""

FOR_SEVERAL = ("moe_wna16", "inc", "humming")
"""Methods that take over checkpoints of other methods."""

METHODS = tuple(sorted({*(each for methods in COMPRESSED.values() for each in methods), *WHILE_LOADING, *FOR_SEVERAL}))

DROPPED = {
    "squeezellm": "compress the model with awq or gptq",
    "bitsandbytes": "use fp8 or int8_per_channel_weight_only, which compress while loading, or backend hf",
    "bitsandbytes4": "use awq, or backend hf",
    "bitsandbytes8": "use fp8 or int8_per_channel_weight_only, or backend hf",
    "gguf": "use the checkpoint that the GGUF file was made from",
}
"""Methods of earlier versions, or of other backends, and what to do instead."""

MIN_CAPABILITY = {
    **dict.fromkeys(("gptq", "auto_gptq", "gptq_marlin", "inc"), 60),
    **dict.fromkeys(("compressed-tensors", "quark", "moe_wna16"), 70),
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin", "fp8", "deepseek_v4_fp8", "modelopt_fp4", "torchao"), 75),
    **dict.fromkeys(("online", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "humming"), 75),
    **dict.fromkeys(("int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8"), 75),
    **dict.fromkeys(("modelopt_mxfp8", "experts_int8", "fbgemm_fp8", "mxfp4", "gpt_oss_mxfp4"), 80),
    "fp_quant": 100,
}
"""Method -> least compute capability, times ten. Source: vLLM 0.32, get_min_capability of each method.

Of modelopt and modelopt_mixed it depends on what the checkpoint holds.
"""

BF16_ALONE = ("mxfp4", "gpt_oss_mxfp4", "fp_quant", "modelopt_mxfp8")
"""Methods that compute in bf16 only; most take fp16, too. Source: get_supported_act_dtypes of each method."""

ALSO_FP32 = ("torchao", "compressed-tensors")

DEPRECATED = ("fbgemm_fp8", "fp_quant")
"""Methods that vLLM 0.32 reads only with allow_deprecated_quantization."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def quantization_name(value: Any) -> Any:
    """The method in vLLM's spelling.

    Raises:
        ValueError: vLLM has no such method.
    """
    if not isinstance(value, str):
        return value
    if not value:
        return None
    name = value.lower().replace("compressed_tensors", "compressed-tensors")
    if name in METHODS:
        return name
    if name in DROPPED:
        raise ValueError(f"vLLM does not support it; {DROPPED[name]}")
    near = difflib.get_close_matches(name, METHODS, n=1)
    guess = f". Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"vLLM takes {', '.join(METHODS)}{guess}")


def family_of(method: str) -> str:
    """The family of a method, or the method itself."""
    name = method.lower().replace("_", "-") if method.lower() == "compressed_tensors" else method.lower()
    return next((family for family, methods in COMPRESSED.items() if name in methods), name)
