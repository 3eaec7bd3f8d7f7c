# SPDX-License-Identifier: Apache-2.0
"""The fast stepper: one forward a step holds all its tokens, packed into one row after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache

from lmi.api import OutOfMemoryError, StepBatch, StepOutput, Stepper, StepperLimits
from lmi_hf.stepping.arena import Arena, LayerRows, LayerShape
from lmi_hf.stepping.attention import NAME, SlotCache
from lmi_hf.stepping.lora import HookedLayers
from lmi_hf.stepping.plan import Plan, make_plan

Forward = Callable[[Plan, list[LayerRows]], torch.Tensor]
"""Writes a step's keys and values and returns its logits [sum of n_logits, vocab_size]."""


class PackedStepper(Stepper):
    """Steps a model through a Forward over an arena.

    Args:
        forward: the model.
        arena: its cache.
        limits: what is promised to the scheduler.
        device: where ids and positions go.
    """

    def __init__(self, forward: Forward, arena: Arena, limits: StepperLimits, device: torch.device) -> None:
        self._forward = forward
        self._arena = arena
        self._device = device
        self.limits = limits

    def step(self, batch: StepBatch) -> StepOutput:
        with torch.inference_mode(), out_of_memory_named():
            plan = make_plan(batch, self._arena, self._device)
            return StepOutput(logits=self._forward(plan, self._arena.layers))

    def truncate(self, slot: int, n_tokens: int) -> None:
        self._arena.truncate(slot, n_tokens)

    def release(self, slot: int) -> None:
        self._arena.truncate(slot, 0)

    def close(self) -> None:
        self._arena.close()
        self._forward = _closed


class ModelForward:
    """The model's own forward over the arena: for architectures that call attention through transformers' interface.

    Args:
        model: a causal language model; its attention implementation is switched.
        hooked: its layers, for adapters; None for none.
    """

    def __init__(self, model: Any, hooked: HookedLayers | None = None) -> None:
        self.model = model
        self._hooked = hooked
        self._usual = model.config._attn_implementation
        model.set_attn_implementation(NAME)

    def undo(self) -> None:
        if self._hooked is not None:
            self._hooked.undo()
        self.model.set_attn_implementation(self._usual)

    def __call__(self, plan: Plan, rows: list[LayerRows]) -> torch.Tensor:
        if self._hooked is not None:
            self._hooked.begin(plan.n_rows, plan.adapters)
        out = self.model(
            input_ids=plan.ids[None],
            position_ids=plan.positions[None],
            past_key_values=SlotCache(rows, plan),
            use_cache=True,
            logits_to_keep=plan.logit_rows,
        )
        logits: torch.Tensor = out.logits[0]
        return logits


class ProbeCache(Cache):
    """Records the shapes of the keys and values that a model hands to its cache."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.shapes: dict[int, LayerShape] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        self.shapes[layer_idx] = LayerShape(
            n_heads=key_states.shape[1],
            key_size=key_states.shape[3],
            value_size=value_states.shape[3],
            dtype=key_states.dtype,
            device=key_states.device,
        )
        if key_states.shape[:3] != value_states.shape[:3]:
            raise NotImplementedError("keys and values of different shapes")
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0, *args: Any) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int, *args: Any) -> tuple[int, int]:
        return query_length, 0


def probe_shapes(model: Any, device: torch.device) -> list[LayerShape]:
    """Run a model on one token and return what each layer's cache must keep."""
    cache = ProbeCache()
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.inference_mode():
        model(input_ids=token, position_ids=token, past_key_values=cache, use_cache=True)
    if sorted(cache.shapes) != list(range(len(cache.shapes))) or not cache.shapes:
        raise NotImplementedError(f"layers {sorted(cache.shapes)} use a key-value cache")
    return [cache.shapes[number] for number in sorted(cache.shapes)]


@contextmanager
def out_of_memory_named() -> Iterator[None]:
    """Turn torch's out-of-memory errors into LMI's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(error) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch gives the host's failure no class of its own
            raise _out_of_memory(error) from error
        raise
    except MemoryError as error:
        raise _out_of_memory(error) from error


def _out_of_memory(error: BaseException) -> OutOfMemoryError:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return OutOfMemoryError(
        "engine.out-of-memory",
        f"the device ran out of memory: {first_line}",
        "Lower option.max_rolling_batch_size, option.max_model_len or option.kv_cache_memory_bytes",
    )


def _closed(plan: Plan, rows: list[LayerRows]) -> torch.Tensor:
    raise RuntimeError("the stepper is closed")
