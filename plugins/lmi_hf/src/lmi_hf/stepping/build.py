# SPDX-License-Identifier: Apache-2.0
"""Choose how a loaded model is stepped: the fastest way whose logits agree with the model's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lmi.api import OutOfMemoryError, Progress, Stepper, StepperLimits, memory_share_bytes
from lmi_hf.stepping.adapters import AdapterStepper
from lmi_hf.stepping.arena import Arena, LayerShape
from lmi_hf.stepping.decoder import LlamaLoop
from lmi_hf.stepping.lora import HookedLayers
from lmi_hf.stepping.packed import Forward, ModelForward, PackedStepper, out_of_memory_named, probe_shapes
from lmi_hf.stepping.selfcheck import Reference, distance, is_close, make_reference
from lmi_hf.stepping.serial import SerialStepper

log = logging.getLogger(__name__)

_AUTO_CACHE_SHARE = 0.5  # of the memory left after the weights; the rest is for activations and other processes
_LEAST_CACHE_TOKENS = 16
_ROPES_OF_FIXED_FREQUENCY = frozenset({"default", "linear", "llama3", "yarn", "proportional"})


@dataclass(frozen=True, kw_only=True)
class StepperOptions:
    """How a stepper is sized.

    Args:
        max_slots: sequences at the same time.
        max_context_tokens: prompt plus output of one sequence.
        cache_bytes: memory for keys and values; 0 takes half of what is free, or what ``memory_share`` leaves.
        memory_share: of a CUDA device, for everything on it that is there when the cache is made, and the cache; 0 for
            none. On other devices it counts for nothing.
        token_bytes_beside: what a token takes in the cache of another model, which is to hold as many tokens in the
            same memory.
        prefill_chunk_tokens: most prompt tokens a step.
        prefill_tokens_beside_decodes: the same for a step that also decodes.
        rounds_activations: whether layers round what they read to few bits, which makes much of a small difference.
        packs_weights: lay weights out for the processor; off where something else still uses the model.
        takes_adapters: requests may name LoRA adapters; the stepper has ``StepsAdapters`` then. It needs peft.
        max_adapters_per_step: in one step; 0 for no limit.
    """

    max_slots: int
    max_context_tokens: int
    cache_bytes: int = 0
    memory_share: float = 0.0
    token_bytes_beside: int = 0
    prefill_chunk_tokens: int = 512
    prefill_tokens_beside_decodes: int = 16
    rounds_activations: bool = False
    packs_weights: bool = True
    takes_adapters: bool = False
    max_adapters_per_step: int = 0

    def checked_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """By what number type a stepper's logits are judged, for a model of some type."""
        return torch.int8 if self.rounds_activations else dtype


def build_stepper(model: Any, options: StepperOptions, progress: Progress | None = None) -> Stepper:
    """Wrap a model in evaluation mode.

    Three ways are tried, each checked against one plain forward on random ids: a decoder loop of our own (Llama's
    family), the model's own forward with packed rows, and one forward a slot with the model's own cache, which is
    always right. The last is said in one warning.

    Args:
        model: a causal language model of transformers; the stepper owns it from now on.
        options: sizes.
        progress: told the stages.
    Raises:
        OutOfMemoryError: not even a few tokens of cache fit.
    """
    tell = progress or _silent
    device = next(model.parameters()).device
    with out_of_memory_named():
        tell("check", 0.0)
        reference = make_reference(model, _vocab_size(model), device)
        reasons: list[str] = []
        for number, attempt in enumerate((_with_loop, _with_model_forward)):
            tell("check", (number + 1) / 3)
            stepper = _try(attempt, model, options, reference, device, reasons)
            if stepper is not None:
                return stepper
        log.warning(
            "%s runs one sequence at a time, right but slower: its cache cannot be shared between slots (%s)",
            type(model).__name__,
            "; ".join(reason for reason in reasons if reason),
        )
        return _with_model_cache(model, options, reference, device)


def _try(
    attempt: Callable[[Any, StepperOptions, Reference, torch.device], Stepper | str],
    model: Any,
    options: StepperOptions,
    reference: Reference,
    device: torch.device,
    reasons: list[str],
) -> Stepper | None:
    """Run an attempt; what it fails on, whatever it is, becomes a reason to try the next."""
    try:
        outcome = attempt(model, options, reference, device)
    except (OutOfMemoryError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # foreign model code may raise anything
        log.debug("%s failed", attempt.__name__, exc_info=True)
        outcome = f"{type(error).__name__}: {error}"
    if isinstance(outcome, str):
        reasons.append(outcome)
        return None
    return outcome


def _with_loop(model: Any, options: StepperOptions, reference: Reference, device: torch.device) -> Stepper | str:
    if not _has_fixed_positions(model) or not LlamaLoop.follows(model):
        return ""
    loop = LlamaLoop(model)
    stepper = _packed_stepper(loop.forward, loop.shapes(), model, options, device)
    dtype = options.checked_dtype(loop.embedding.dtype)
    found = distance(stepper, reference, dtype)
    if not is_close(found, dtype):
        stepper.close()
        return f"the decoder loop's logits are {found:.2g} away"
    if options.packs_weights:
        loop.pack()
    return AdapterStepper(stepper, model, loop.adaptable()) if options.takes_adapters else stepper


def _with_model_forward(
    model: Any, options: StepperOptions, reference: Reference, device: torch.device
) -> Stepper | str:
    if not _has_fixed_positions(model):
        return "positions depend on the length"
    if not getattr(model, "_supports_attention_backend", False):
        return "it does not call attention through the interface"
    shapes = probe_shapes(model, device)
    hooked = HookedLayers(model) if options.takes_adapters else None
    forward = ModelForward(model, hooked)
    stepper = None
    try:
        stepper = _packed_stepper(forward, shapes, model, options, device)
        dtype = options.checked_dtype(shapes[0].dtype)
        found = distance(stepper, reference, dtype)
        if is_close(found, dtype):
            return stepper if hooked is None else AdapterStepper(stepper, model, hooked.settle())
        reason = f"packed rows give logits {found:.2g} away"
    except Exception:
        forward.undo()
        raise
    forward.undo()
    stepper.close()
    return reason


def _with_model_cache(model: Any, options: StepperOptions, reference: Reference, device: torch.device) -> Stepper:
    affordable = _cache_bytes(options, device) // (_guessed_token_bytes(model) + options.token_bytes_beside)
    capacity = min(affordable, options.max_slots * options.max_context_tokens)
    limits = _limits(model, options, options.max_slots, options.max_context_tokens, capacity)
    hooked = HookedLayers(model) if options.takes_adapters else None
    stepper = SerialStepper(model, limits, device, hooked)
    dtype = options.checked_dtype(model.dtype)
    found = distance(stepper, reference, dtype)
    if not is_close(found, dtype):
        log.warning(
            "%s: reading a prompt in chunks gives logits %.2g away from reading it at once",
            type(model).__name__,
            found,
        )
    return stepper if hooked is None else AdapterStepper(stepper, model, hooked.settle())


def _packed_stepper(
    forward: Forward, shapes: list[LayerShape], model: Any, options: StepperOptions, device: torch.device
) -> PackedStepper:
    token_bytes = sum(shape.row_bytes for shape in shapes)
    affordable = _cache_bytes(options, device) // (token_bytes + options.token_bytes_beside)
    slots, context = options.max_slots, options.max_context_tokens
    if device.type != "cpu":
        context = min(context, affordable)
        slots = min(slots, max(1, affordable // max(1, context)))
        if (slots, context) != (options.max_slots, options.max_context_tokens):
            log.warning(
                "memory for %d cache tokens: %d sequences of %d tokens instead of %d of %d; set option.max_model_len",
                affordable,
                slots,
                context,
                options.max_slots,
                options.max_context_tokens,
            )
    capacity = min(affordable, slots * context)
    limits = _limits(model, options, slots, context, capacity)
    arena = Arena(shapes, max_slots=slots, context_tokens=context, capacity_tokens=capacity)
    return PackedStepper(forward, arena, limits, device)


def _limits(model: Any, options: StepperOptions, slots: int, context: int, capacity: int) -> StepperLimits:
    least = min(_LEAST_CACHE_TOKENS, context)
    if capacity < least:
        raise OutOfMemoryError(
            "engine.out-of-memory",
            f"the memory left holds {capacity} tokens of cache, at least {least} are needed",
            "Use a smaller model or dtype, raise option.kv_cache_memory_bytes, or free memory",
        )
    return StepperLimits(
        max_slots=slots,
        max_context_tokens=min(context, capacity),
        kv_capacity_tokens=capacity,
        vocab_size=_vocab_size(model),
        prefill_chunk_tokens=options.prefill_chunk_tokens,
        prefill_tokens_beside_decodes=options.prefill_tokens_beside_decodes,
        max_prefills_per_step=slots,
        max_adapters_per_step=options.max_adapters_per_step,
    )


def _cache_bytes(options: StepperOptions, device: torch.device) -> int:
    if options.cache_bytes:
        return options.cache_bytes
    if device.type != "cuda":
        return int(memory_share_bytes() * _AUTO_CACHE_SHARE)
    torch.cuda.empty_cache()  # what an attempt before left behind is free
    free, total = torch.cuda.mem_get_info(device)
    return room_bytes(free, total, options.memory_share)


def room_bytes(free_bytes: int, total_bytes: int, share: float) -> int:
    """Memory of a device for the cache.

    Args:
        free_bytes: of it, after the weights were loaded.
        total_bytes: of it.
        share: of all of it, for what is used already and the cache; 0 takes half of what is free.
    """
    if not share:
        return int(free_bytes * _AUTO_CACHE_SHARE)
    return max(0, int(total_bytes * share) - (total_bytes - free_bytes))


def cache_token_bytes(model: Any) -> int:
    """What a token takes in the cache of a model.

    Args:
        model: a causal language model of transformers, in evaluation mode.
    """
    try:
        return sum(shape.row_bytes for shape in probe_shapes(model, next(model.parameters()).device))
    except Exception:  # foreign model code may raise anything
        log.debug("the cache of %s is guessed", type(model).__name__, exc_info=True)
        return _guessed_token_bytes(model)


def _guessed_token_bytes(model: Any) -> int:
    """Without knowing the cache's shape, count it as keys and values of full attention in all layers."""
    config = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    n_layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    return max(1, 2 * n_layers * hidden * int(model.dtype.itemsize))


def _has_fixed_positions(model: Any) -> bool:
    """Whether a token's rotation depends on its position alone, not on how long its sequence has become."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    entries = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return all(entry.get("rope_type", "default") in _ROPES_OF_FIXED_FREQUENCY for entry in entries)


def _vocab_size(model: Any) -> int:
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    n_rows = weight.shape[0] if weight is not None and weight.ndim == 2 else 0
    return int(n_rows or model.config.get_text_config().vocab_size)


def _silent(stage: str, fraction: float | None = None) -> None:
    return None
