# SPDX-License-Identifier: Apache-2.0
"""Load a model with transformers and hand it to a stepper."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lmi.api import ArtifactFormat, EngineLoadError, LmiError, ModelArtifacts, Progress, Stepper
from lmi_hf.adapters import base_location
from lmi_hf.config import HFConfig
from lmi_hf.machine import computes_bf16

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Whole: TypeAlias = Callable[[ModelArtifacts, dict[str, Any], Progress], Any]
"""Loads a model from the arguments of transformers' ``from_pretrained``."""

_INSTALL = "pip install torch, in the build for your device, then: pip install 'lmi-hf[engine]'"
_UNKNOWN_CONTEXT_TOKENS = 2048  # for models whose config.json names no limit
_CPU_PREFILL_TOKENS, _CUDA_PREFILL_TOKENS = 512, 2048
_CPU_TOKENS_BESIDE, _CUDA_TOKENS_BESIDE = 16, 512


def import_libraries(backend: str) -> None:
    """Import torch and transformers.

    Args:
        backend: whose engine they are; named where one is missing.
    Raises:
        EngineLoadError: one is missing or broken.
    """
    for name in ("torch", "transformers"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise EngineLoadError(
                    "engine.library-broken", f"{name} cannot be imported: {error}", _INSTALL
                ) from error
            raise EngineLoadError("engine.not-installed", f"backend {backend} needs {name}", _INSTALL) from error
        except (ImportError, OSError) as error:
            raise EngineLoadError("engine.library-broken", f"{name} cannot be imported: {error}", _INSTALL) from error
        if name == "torch":
            # transformers imports torchao wherever it is installed, which warns of every kernel for other devices.
            for noisy in ("torchao", "torch.utils._pytree"):
                logging.getLogger(noisy).setLevel(logging.ERROR)


def load_stepper(artifacts: ModelArtifacts, config: HFConfig, n_threads: int, progress: Progress) -> Stepper:
    """Load the weights and return what steps them.

    Args:
        artifacts: the model; for an adapter, its base model is loaded and the adapter merged into it.
        config: options.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: transformers refused the model; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    return stepper_of(
        artifacts,
        lambda: load_model(artifacts, config, progress),
        Wishes(
            max_slots=config.max_rolling_batch_size,
            max_context_tokens=config.max_model_len,
            chunk_tokens=config.max_rolling_batch_prefill_tokens,
            tokens_beside=config.prefill_tokens_beside_decodes,
            cache_bytes=config.kv_cache_memory_bytes,
            takes_adapters=config.enable_lora,
            max_adapters_per_step=config.max_loras or 0,
        ),
        n_threads,
        progress,
    )


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Sizes that options ask for; 0 takes what suits model and device.

    Args:
        max_slots: sequences at the same time.
        max_context_tokens: prompt plus output of one.
        chunk_tokens: of prompts, in one step.
        tokens_beside: of prompts, in a step that also decodes.
        cache_bytes: for keys and values.
        memory_share: of a CUDA device, for weights and cache together.
        token_bytes_beside: what a token takes in the cache of another model, which is to hold as many.
        rounds_activations: whether layers round what they read to few bits.
        takes_adapters: requests may name LoRA adapters.
        max_adapters_per_step: different ones in a step.
    """

    max_slots: int
    max_context_tokens: int = 0
    chunk_tokens: int = 0
    tokens_beside: int = 0
    cache_bytes: int = 0
    memory_share: float = 0.0
    token_bytes_beside: int = 0
    rounds_activations: bool = False
    takes_adapters: bool = False
    max_adapters_per_step: int = 0


def stepper_of(
    artifacts: ModelArtifacts, load: Callable[[], Any], wishes: Wishes, n_threads: int, progress: Progress
) -> Stepper:
    """What steps the model that ``load`` returns.

    Args:
        artifacts: the model.
        load: returns it, in evaluation mode.
        wishes: sizes.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: it could not be loaded; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    import torch

    from lmi_hf.stepping import StepperOptions, build_stepper

    torch.set_num_threads(n_threads)
    model = loaded(artifacts, load)
    stepper = build_stepper(model, StepperOptions(**_sizes(model, artifacts, wishes)), progress)
    limits = stepper.limits
    log.info(
        "%s in %s on %s, %d threads: %d sequences, %d tokens each, %d cache tokens",
        type(model).__name__,
        str(model.dtype).removeprefix("torch."),
        next(model.parameters()).device,
        n_threads,
        limits.max_slots,
        limits.max_context_tokens,
        limits.kv_capacity_tokens,
    )
    return stepper


def loaded(artifacts: ModelArtifacts, load: Callable[[], Any]) -> Any:
    """What ``load`` returns, with every failure as one of LMI's.

    Args:
        artifacts: the model.
        load: returns it.
    Raises:
        EngineLoadError: it could not be loaded; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    import torch

    from lmi_hf.stepping.packed import out_of_memory_named

    with out_of_memory_named():
        try:
            return load()
        except (LmiError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            hint = "The log above has the whole traceback; lmi check looks at the files"
            message = f"transformers could not load {artifacts.folder}: {type(error).__name__}: {error}"
            raise EngineLoadError("engine.load-failed", message, hint) from error


def _sizes(model: Any, artifacts: ModelArtifacts, wishes: Wishes) -> dict[str, Any]:
    """The fields of StepperOptions."""
    is_cpu = next(model.parameters()).device.type == "cpu"
    own_limit = context_limit(model) or artifacts.max_context_tokens or _UNKNOWN_CONTEXT_TOKENS
    chunk = wishes.chunk_tokens or (_CPU_PREFILL_TOKENS if is_cpu else _CUDA_PREFILL_TOKENS)
    beside = wishes.tokens_beside or (_CPU_TOKENS_BESIDE if is_cpu else _CUDA_TOKENS_BESIDE)
    return {
        "max_slots": wishes.max_slots,
        "max_context_tokens": min(wishes.max_context_tokens or own_limit, own_limit),
        "cache_bytes": wishes.cache_bytes,
        "memory_share": wishes.memory_share,
        "token_bytes_beside": wishes.token_bytes_beside,
        "rounds_activations": wishes.rounds_activations,
        "takes_adapters": wishes.takes_adapters,
        "max_adapters_per_step": wishes.max_adapters_per_step,
        "prefill_chunk_tokens": chunk,
        "prefill_tokens_beside_decodes": min(beside, chunk),
    }


def load_model(artifacts: ModelArtifacts, config: HFConfig, progress: Progress, whole: Whole | None = None) -> Any:
    """Return the model, in evaluation mode, on its device, with any adapter merged.

    Args:
        artifacts, config, progress: as ``load_stepper`` has them.
        whole: loads it from the arguments of transformers' ``from_pretrained``; None for a causal language model.
    """
    import transformers

    model_config = read_config(artifacts, progress, trust_remote_code=config.trust_remote_code)
    arguments: dict[str, Any] = {
        "config": model_config,
        "dtype": choose_dtype(config.dtype, model_config),
        "trust_remote_code": config.trust_remote_code,
    }
    device_map = choose_device_map(config)
    if device_map is not None:
        arguments["device_map"] = device_map
    if config.tensor_parallel_degree > 1:
        arguments["max_memory"] = _memory_of_first_devices(config.tensor_parallel_degree)
    if config.quantization in ("bitsandbytes4", "bitsandbytes8"):
        key = "load_in_4bit" if config.quantization == "bitsandbytes4" else "load_in_8bit"
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**{key: True})  # type: ignore[no-untyped-call]
    if whole is not None:
        return whole(artifacts, arguments, progress)
    return load_pretrained(artifacts, arguments, progress, is_quantized=config.quantization is not None)


def read_config(artifacts: ModelArtifacts, progress: Progress, *, trust_remote_code: bool) -> Any:
    """The model's configuration in transformers; for an adapter that of its base model."""
    progress("read configuration")
    return config_of(source_of(artifacts), trust_remote_code=trust_remote_code)


def config_of(source: str, *, trust_remote_code: bool) -> Any:
    """A configuration in transformers, from a folder or the hub."""
    import transformers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)


def load_pretrained(
    artifacts: ModelArtifacts, arguments: dict[str, Any], progress: Progress, *, is_quantized: bool
) -> Any:
    """Return a causal language model, in evaluation mode, with any adapter merged.

    Args:
        artifacts: the model.
        arguments: of transformers' ``from_pretrained``.
        progress: told the stages.
        is_quantized: whether weights are compressed, which take no adapter in.
    """
    progress("load weights")
    model = model_of(source_of(artifacts), arguments)
    if artifacts.format is ArtifactFormat.ADAPTER:
        progress("merge adapter")
        model = _merge_adapter(model, artifacts, is_quantized=is_quantized)
        model.train(False)
        model.requires_grad_(False)
    return model


def model_of(source: str, arguments: dict[str, Any]) -> Any:
    """A causal language model, in evaluation mode, from a folder or the hub.

    Args:
        source: where it is.
        arguments: of transformers' ``from_pretrained``.
    """
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(source, **arguments)
    model.train(False)
    model.requires_grad_(False)
    return model


def source_of(artifacts: ModelArtifacts) -> str:
    """Where a model's own files are; for an adapter those of its base model."""
    return base_location(artifacts) if artifacts.format is ArtifactFormat.ADAPTER else artifacts.folder


def choose_dtype(name: str, model_config: Any) -> torch.dtype:
    """The torch type that ``option.dtype`` means for a model on this machine.

    Args:
        name: auto, bf16, fp16 or fp32.
        model_config: the model's configuration in transformers; says the type of its checkpoint.
    """
    import torch

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name in named:
        return named[name]
    stored = getattr(model_config.get_text_config(), "dtype", None) or getattr(model_config, "dtype", None)
    stored = stored if isinstance(stored, torch.dtype) else torch.float32
    if torch.cuda.is_available():
        return torch.float16 if stored == torch.bfloat16 and not has_bf16() else stored
    return torch.bfloat16 if stored != torch.float32 and has_bf16() else torch.float32


def has_bf16() -> bool:
    """Whether this machine's device computes bf16 by itself."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else computes_bf16()


def choose_device_map(config: HFConfig) -> str | int | None:
    """What Accelerate is told; None leaves the model on the CPU."""
    import torch

    if config.device_map is not None:
        return int(config.device_map) if config.device_map.isdigit() else config.device_map
    if not torch.cuda.is_available():
        return None
    return "auto" if config.tensor_parallel_degree > 1 else "cuda:0"


def context_limit(model: Any) -> int:
    """Most tokens the model was made for; 0 where its configuration does not say."""
    text_config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if getattr(text_config, name, None):
            return int(getattr(text_config, name))
    return 0


def _memory_of_first_devices(n_devices: int) -> dict[int, int]:
    """Bytes that Accelerate may use on each of the first n devices: nine tenths of what is free."""
    import torch

    return {number: int(torch.cuda.mem_get_info(number)[0] * 0.9) for number in range(n_devices)}


def _merge_adapter(model: Any, artifacts: ModelArtifacts, *, is_quantized: bool) -> Any:
    """Add the adapter to the base model; compressed weights cannot take it in, there it stays beside them."""
    import peft

    adapted = peft.PeftModel.from_pretrained(model, artifacts.folder)
    return adapted.get_base_model() if is_quantized else adapted.merge_and_unload()


__all__ = [
    "Whole",
    "Wishes",
    "choose_device_map",
    "choose_dtype",
    "has_bf16",
    "config_of",
    "context_limit",
    "import_libraries",
    "load_model",
    "load_pretrained",
    "load_stepper",
    "loaded",
    "model_of",
    "read_config",
    "source_of",
    "stepper_of",
]
