# SPDX-License-Identifier: Apache-2.0
"""What is wrong with options together, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmi.api import BackendConfig, Conflict, Severity

if TYPE_CHECKING:
    from lmi_trtllm.config import TrtllmConfig

_ONLY_WITH_QUANTIZE = {
    "smoothquant_alpha": ("smoothquant",),
    "smoothquant_per_token": ("smoothquant",),
    "smoothquant_per_channel": ("smoothquant",),
    "multi_query_mode": ("smoothquant",),
    "q_format": ("awq",),
    "awq_block_size": ("awq",),
    "calib_size": ("awq", "fp8"),
    "calib_batch_size": ("awq", "fp8"),
    "use_fp8_context_fmha": ("fp8",),
}
"""Option -> values of quantize under which it does something."""

_OF_ADAPTERS = ("max_loras", "max_lora_rank", "max_cpu_loras")
"""Options that do something with enable_lora alone."""

_NEVER = {
    "num_checkpoint_workers": "the model is loaded without converting it first",
    "num_engine_workers": "the engine chooses how many processes build",
    "load_by_shard": "weights are always read by shard",
    "trtllm_checkpoint_path": "nothing is converted; to load a converted checkpoint, name its folder with "
    "option.model_id",
    "logits_dtype": "it was for T5, which this backend does not serve",
}
"""Options of the original that change nothing here, and why."""


def conflicts_of(config: TrtllmConfig) -> Iterator[Conflict]:
    """Errors first, then what is without effect."""
    yield from _contradictions(config)
    yield from _blocks(config)
    if config.rolling_batch == "tensorrtllm":
        yield Conflict(
            fields=("rolling_batch",),
            message="rolling_batch=tensorrtllm is an old spelling",
            hint="Write option.rolling_batch=trtllm",
            severity=Severity.WARNING,
            code="config.deprecated",
        )
    for name, methods in _ONLY_WITH_QUANTIZE.items():
        if config.quantize not in methods and differs(config, name):
            yield Conflict(
                fields=(name, "quantize"),
                message=f"{said(config, name)} is only applied under quantize={' or '.join(methods)}; "
                f"{said(config, 'quantize')}",
                hint=f"Remove option.{name}, or set option.quantize={methods[0]}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
    yield from _adapters(config)
    for name, reason in _NEVER.items():
        if differs(config, name):
            yield Conflict(
                fields=(name,),
                message=f"{said(config, name)} changes nothing: {reason}",
                hint=f"Remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )


def differs(config: BackendConfig, name: str) -> bool:
    """Whether an option has another value than its default; the default, written out, harms nowhere."""
    return bool(getattr(config, name) != type(config).model_fields[name].default)


def said(config: BackendConfig, name: str) -> str:
    """An option and its value as a user writes them."""
    value: Any = getattr(config, name)
    if value is None:
        return f"{name} is not set"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def listed(names: tuple[str, ...]) -> str:
    """Names as a sentence has them: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _contradictions(config: TrtllmConfig) -> Iterator[Conflict]:
    stretch = (config.rotary_scaling_type, config.rotary_scaling_factor)
    if (stretch[0] is None) != (stretch[1] is None):
        there, lacking = ("type", "factor") if stretch[1] is None else ("factor", "type")
        yield Conflict(
            fields=(f"rotary_scaling_{there}", f"rotary_scaling_{lacking}"),
            message=f"{said(config, f'rotary_scaling_{there}')}, but rotary_scaling_{lacking} is not set",
            hint="Set both: rotary_scaling_type to linear or dynamic, rotary_scaling_factor above 1; or neither",
        )
    if config.backend == "pytorch" and config.quantize == "smoothquant":
        yield Conflict(
            fields=("quantize", "backend"),
            message="quantize=smoothquant needs built engines, and backend=pytorch builds none",
            hint="Leave option.backend out, or use a checkpoint that is already compressed and leave option.quantize "
            "out",
        )


def _adapters(config: TrtllmConfig) -> Iterator[Conflict]:
    for name in _OF_ADAPTERS:
        if differs(config, name) and not config.enable_lora:
            yield Conflict(
                fields=(name, "enable_lora"),
                message=f"{said(config, name)} changes nothing: enable_lora is false",
                hint=f"Remove option.{name}, or set option.enable_lora=true",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
    if config.enable_lora and config.max_cpu_loras is not None and config.max_cpu_loras < config.max_loras:
        yield Conflict(
            fields=("max_cpu_loras", "max_loras"),
            message=f"{said(config, 'max_cpu_loras')} is less than {said(config, 'max_loras')}",
            hint=f"Set option.max_cpu_loras={config.max_loras} or more, or lower max_loras",
        )


def _blocks(config: TrtllmConfig) -> Iterator[Conflict]:
    n_tokens = config.tokens_per_block
    if n_tokens is not None and n_tokens & (n_tokens - 1):
        lower = 1 << (n_tokens.bit_length() - 1)
        yield Conflict(
            fields=("tokens_per_block",),
            message=f"tokens_per_block={n_tokens} is no power of two",
            hint=f"Set it to {lower} or {2 * lower}, or leave it out",
        )
