# SPDX-License-Identifier: Apache-2.0
"""What is wrong with options together, and which of them are old or do nothing, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmi.api import Conflict, Severity

if TYPE_CHECKING:
    from lmi_hf.config import HFConfig

_OLD_SWITCHES = {"load_in_8bit": "bitsandbytes8", "load_in_4bit": "bitsandbytes4"}
"""Switch of earlier versions -> the value of quantize that replaced it."""

_IDLE = {
    "max_sparsity": "it was for the original's scheduler, and a batch is never padded here",
    "max_splits": "it was for the original's scheduler, and a batch is never split here",
    "disable_flash_attn": "PyTorch's own attention kernels are used, not the flash-attn package",
    "low_cpu_mem_usage": "weights are always loaded without a second copy",
}
"""Options of the original that change nothing here, and why."""


def conflicts_of(config: HFConfig) -> Iterator[Conflict]:
    """Errors first, then what is old or without effect."""
    yield from _contradictions(config)
    yield from _old_forms(config)
    for name in () if config.enable_lora else ("max_loras", "max_lora_rank"):
        value = getattr(config, name)
        if value is not None:
            yield Conflict(
                fields=(name, "enable_lora"),
                message=f"{name}={value} changes nothing: enable_lora is false",
                hint=f"Remove option.{name}, or set option.enable_lora=true",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
    for name, reason in _IDLE.items():
        value = getattr(config, name)
        if value != type(config).model_fields[name].default:
            yield Conflict(
                fields=(name,),
                message=f"{name}={_text(value)} changes nothing: {reason}",
                hint=f"Remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )


def _contradictions(config: HFConfig) -> Iterator[Conflict]:
    asked = [name for name in _OLD_SWITCHES if getattr(config, name)]
    if len(asked) > 1:
        yield Conflict(
            fields=tuple(asked),
            message=f"{' and '.join(f'{name}=true' for name in asked)} exclude each other",
            hint="Remove both and set option.quantize to bitsandbytes8 or bitsandbytes4",
        )
    elif asked and config.quantize is not None and config.quantization != _OLD_SWITCHES[asked[0]]:
        yield Conflict(
            fields=("quantize", asked[0]),
            message=f"quantize={config.quantize}, and {asked[0]}=true asks for {_OLD_SWITCHES[asked[0]]}",
            hint=f"Remove option.{asked[0]}, or set option.quantize={_OLD_SWITCHES[asked[0]]}",
        )
    if config.decoding_strategy != "greedy":
        yield Conflict(
            fields=("decoding_strategy",),
            message=f"decoding_strategy={config.decoding_strategy}: hf decodes greedily for requests that ask nothing",
            hint="Remove option.decoding_strategy, and let requests say do_sample, temperature, top_p and so on",
        )


def _old_forms(config: HFConfig) -> Iterator[Conflict]:
    for name, method in _OLD_SWITCHES.items():
        if getattr(config, name):
            yield _deprecated(
                name,
                f"{name}=true is an old form of quantize={method}",
                f"Remove option.{name} and write option.quantize={method}",
            )
    if config.quantize == "bitsandbytes":
        yield _deprecated(
            "quantize",
            "quantize=bitsandbytes is an old name of quantize=bitsandbytes8",
            "Write option.quantize=bitsandbytes8",
        )
    if config.multi_gpu is not None:
        yield _deprecated(
            "multi_gpu",
            f"multi_gpu={config.multi_gpu} is an old option of the original's scheduler; device_map and "
            "tensor_parallel_degree spread a model",
            "Remove option.multi_gpu, and set option.tensor_parallel_degree or option.device_map",
        )


def _deprecated(name: str, message: str, hint: str) -> Conflict:
    return Conflict(fields=(name,), message=message, hint=hint, severity=Severity.WARNING, code="config.deprecated")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
