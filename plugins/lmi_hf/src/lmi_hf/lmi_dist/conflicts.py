# SPDX-License-Identifier: Apache-2.0
"""What is wrong with options together, which of them are not offered, and which do nothing, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmi.api import Conflict, Severity

if TYPE_CHECKING:
    from lmi_hf.lmi_dist.config import DistConfig

_OF_LORA = ("max_loras", "max_lora_rank", "lora_extra_vocab_size", "max_cpu_loras")
_OF_SPECULATION = ("speculative_length", "spec_length", "draft_model_tp_size", "record_acceptance_rate")


def conflicts_of(config: DistConfig) -> Iterator[Conflict]:
    """Errors first, then what is old or without effect."""
    yield from _not_offered(config)
    yield from _about_compression(config)
    if not config.enable_lora:  # what is not offered is said of it alone
        for name in filter(config.is_changed, _OF_LORA):
            yield _idle(name, getattr(config, name), "lmi-dist serves no adapters that requests name")
    yield from _about_speculation(config)
    if config.is_changed("max_logprobs"):
        yield _idle("max_logprobs", config.max_logprobs, "there is no such limit here")


def _not_offered(config: DistConfig) -> Iterator[Conflict]:
    if config.enable_lora:
        yield _refused(
            "enable_lora=true is not offered by lmi-dist: requests cannot name adapters",
            "Use option.rolling_batch=vllm, or serve the adapter's own folder, which is merged into its base model",
            "enable_lora",
        )
    if config.load_format == "npcache":
        yield _refused(
            "load_format=npcache is not offered: no maintained library keeps weights as numpy's files",
            "Use load_format=auto, and weights in safetensors",
            "load_format",
        )
    if config.dtype == "int8":
        yield Conflict(
            fields=("dtype",),
            message="dtype=int8 was removed from lmi-dist",
            hint="Use a checkpoint compressed with gptq or awq, or option.rolling_batch=hf with "
            "option.quantize=bitsandbytes8",
        )
    if config.quantize in ("bitsandbytes", "bitsandbytes8"):
        yield Conflict(
            fields=("quantize",),
            message=f"quantize={config.quantize} was removed from lmi-dist",
            hint="Use option.rolling_batch=hf with option.quantize=bitsandbytes8, or a checkpoint compressed with "
            "gptq or awq",
        )
    if config.quantize == "squeezellm":
        yield Conflict(
            fields=("quantize",),
            message="quantize=squeezellm cannot be had: no maintained library reads such checkpoints",
            hint="Use a checkpoint of the same model compressed with gptq or awq",
        )


def _about_compression(config: DistConfig) -> Iterator[Conflict]:
    if config.quantize is not None and config.dtype in ("bf16", "fp32"):
        yield Conflict(
            fields=("dtype", "quantize"),
            message=f"dtype={config.dtype} does not go with quantize={config.quantize}, whose kernels compute in fp16",
            hint="Remove option.dtype",
        )


def _about_speculation(config: DistConfig) -> Iterator[Conflict]:
    degree, draft = config.tensor_parallel_degree, config.speculative_draft_model
    if config.draft_model_tp_size not in (1, degree):
        yield Conflict(
            fields=("draft_model_tp_size", "tensor_parallel_degree"),
            message=f"draft_model_tp_size={config.draft_model_tp_size} is neither 1 nor tensor_parallel_degree="
            f"{degree}",
            hint="Set option.draft_model_tp_size=1, or the same number as option.tensor_parallel_degree",
            severity=Severity.WARNING if draft is None else Severity.ERROR,
        )
    if draft is None:
        for name in filter(config.is_changed, _OF_SPECULATION):
            yield _idle(name, getattr(config, name), "no speculative_draft_model is set")
    elif config.n_proposed == 0:
        yield _idle("speculative_draft_model", draft, "speculative_length is 0", "speculative_length")
    if config.spec_length:
        yield from _about_the_old_length(config, config.spec_length)


def _about_the_old_length(config: DistConfig, n: int) -> Iterator[Conflict]:
    if "speculative_length" in config.model_fields_set and config.speculative_length != n:
        yield Conflict(
            fields=("spec_length", "speculative_length"),
            message=f"spec_length={n} and speculative_length={config.speculative_length} are two names of one option "
            "with different values",
            hint="Remove option.spec_length",
        )
    elif config.speculative_draft_model is not None:  # else it is said to do nothing
        yield Conflict(
            fields=("spec_length",),
            message=f"spec_length={n} is an old name of speculative_length",
            hint=f"Write option.speculative_length={n} and remove option.spec_length",
            severity=Severity.WARNING,
            code="config.deprecated",
        )


def _refused(message: str, hint: str, *fields: str) -> Conflict:
    """What LMI once had, and this backend has not."""
    return Conflict(fields=fields, message=message, hint=hint, code="config.not-supported")


def _idle(name: str, value: Any, reason: str, *others: str) -> Conflict:
    """A warning about an option that does nothing."""
    shown = str(value).lower() if isinstance(value, bool) else value
    return Conflict(
        fields=(name, *others),
        message=f"{name}={shown} does nothing: {reason}",
        hint=f"Remove option.{name}" + (f", or change option.{others[0]}" if others else ""),
        severity=Severity.WARNING,
        code="config.no-effect",
    )
