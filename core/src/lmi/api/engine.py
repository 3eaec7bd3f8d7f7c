# SPDX-License-Identifier: Apache-2.0
"""The two shapes of an inference library: an Engine schedules by itself, a Stepper is scheduled by the core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from lmi.api.requests import GenerationRequest, TokenChunk

if TYPE_CHECKING:
    import torch


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can hold.

    Args:
        max_context_tokens: prompt plus output of one request.
        max_batch_size: requests that run at the same time; more wait.
        vocab_size: number of token ids; 0 where the engine takes any id.
        reasons_first: reasoning may come before what a constraint holds for (``Constraint.reasoning``). Where it may
            not, constraints hold from the first token on.
    """

    max_context_tokens: int
    max_batch_size: int
    vocab_size: int
    reasons_first: bool = False


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is doing now; sent to the server with each heartbeat.

    Args:
        n_running: requests in the batch.
        n_waiting: requests admitted but not started.
        kv_used_tokens: cache tokens held by running requests.
        kv_total_tokens: cache tokens there are; 0 where the engine does not tell.
        n_steps: steps since the start; a number that stands still while requests run means a hang.
        n_guessed_tokens: ids that a draft model guessed since the start.
        n_accepted_tokens: those of them that were right.
    """

    n_running: int = 0
    n_waiting: int = 0
    kv_used_tokens: int = 0
    kv_total_tokens: int = 0
    n_steps: int = 0
    n_guessed_tokens: int = 0
    n_accepted_tokens: int = 0


class Engine(ABC):
    """An inference library with a scheduler of its own. Constructed means loaded and ready."""

    limits: EngineLimits

    @abstractmethod
    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """Produce the request's tokens; closing the generator cancels it and frees its slot.

        Args:
            request: one sequence. ``resumed_ids`` were produced before and are never yielded again.
        Returns:
            Chunks in order; the last one carries ``finish`` and ``usage``, nothing follows it.
        Raises:
            RequestError: this request cannot be served; others go on.
            EngineDeadError: the engine failed; the worker process ends and the server resumes the requests.
        """

    @abstractmethod
    def stats(self) -> EngineStats:
        """Counts for heartbeat and metrics; instant, callable at any time."""

    async def check_health(self) -> None:  # noqa: B027 - alive until it says otherwise
        """Raise EngineDeadError if the engine cannot answer any more."""

    @abstractmethod
    async def close(self) -> None:
        """Free the device; calling it twice is fine."""


class StepperLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a stepper can do in one step; the core's scheduler obeys each.

    Args:
        max_slots: sequences that can hold cache at the same time; slots are numbered 0 to max_slots - 1.
        max_context_tokens: prompt plus output of one sequence.
        kv_capacity_tokens: cache tokens over all slots; admission never exceeds it.
        vocab_size: width of the logits.
        prefill_chunk_tokens: most prompt tokens a step; None for no limit (prompts are never cut).
        prefill_tokens_beside_decodes: prompt tokens a step, on average, while eight or more streams run for each
            prompt that waits, so that they keep their pace; with fewer streams a prompt it grows in proportion. None
            for no other limit than prefill_chunk_tokens.
        max_prefills_per_step: prompts (or chunks of them) in one step.
        n_logits_per_slot: most positions of one sequence that can return logits in a step (speculation, prompt
            log probabilities); 0 for no limit.
        samples_on_device: the stepper returns ids instead of logits and honours no sampling parameter of its own.
        max_adapters_per_step: adapters that the entries of one batch name; 0 for no limit.
    """

    max_slots: int
    max_context_tokens: int
    kv_capacity_tokens: int
    vocab_size: int
    prefill_chunk_tokens: int | None = None
    prefill_tokens_beside_decodes: int | None = None
    max_prefills_per_step: int = 1
    n_logits_per_slot: int = 0
    samples_on_device: bool = False
    max_adapters_per_step: int = 0

    def __post_init__(self) -> None:
        if self.prefill_chunk_tokens is None and self.prefill_tokens_beside_decodes is not None:
            raise ValueError(
                f"prefill_tokens_beside_decodes={self.prefill_tokens_beside_decodes} cuts prompts, and "
                "prefill_chunk_tokens=None says that they are never cut: set both, or neither"
            )


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, or the next chunk of one, to be read into a slot's cache.

    Args:
        slot: the slot; its cache holds exactly ``start`` tokens.
        ids: the tokens at positions start, start + 1, ...
        start: position of ids[0].
        n_logits: logits wanted for the last n_logits ids: 0 for a chunk that is not the last, usually 1 for the last.
        adapter: name of the adapter; empty means the base model.
    """

    slot: int
    ids: list[int]
    start: int
    n_logits: int
    adapter: str = ""


class Decode(msgspec.Struct, frozen=True, kw_only=True):
    """The next token (several under speculation) of a running slot; fields as in Prefill."""

    slot: int
    ids: list[int]
    start: int
    n_logits: int = 1
    adapter: str = ""


class StepBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the device: at most one entry a slot."""

    prefills: list[Prefill] = []
    decodes: list[Decode] = []


@dataclass(frozen=True, kw_only=True)  # never crosses a wire
class StepOutput:
    """The answer to a StepBatch, in its order: prefills first, then decodes.

    Args:
        logits: float, shape [sum of n_logits, vocab_size], on any device; None where the stepper samples.
        ids: sampled ids, length sum of n_logits, where ``limits.samples_on_device``.
    """

    logits: torch.Tensor | None = None
    ids: list[int] | None = None


class Stepper(ABC):
    """A model that computes one step when told to; the core schedules, samples and streams.

    Every call comes from one thread, never two at once. Constructed means loaded and ready.

    Attributes:
        limits: what it can do in a step.
        draft: a model that guesses for this one; None for no speculation.
    Source: Orca (OSDI 2022), iteration-level scheduling.
    """

    limits: StepperLimits
    draft: Draft | None = None

    @abstractmethod
    def step(self, batch: StepBatch) -> StepOutput:
        """Run the batch: one forward or several, never one padded rectangle of prompts and single tokens.

        Raises:
            OutOfMemoryError: the device is full.
            EngineDeadError: the device failed. Any exception ends the worker; its requests resume on another.
        """

    @abstractmethod
    def truncate(self, slot: int, n_tokens: int) -> None:
        """Drop the slot's cache beyond its first n_tokens."""

    @abstractmethod
    def release(self, slot: int) -> None:
        """Forget the slot's cache; the next Prefill of it starts at 0."""

    @abstractmethod
    def close(self) -> None:
        """Free the device; calling it twice is fine."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A small model that guesses the next ids, which a larger one then reads all at once.

    The core has the larger one's ids: a guess is kept where it is what that one says, so that the output is the same
    with guesses and without.

    Args:
        stepper: of the small model, with the vocabulary and at least the slots of the larger one; closed with it.
        n_tokens: guesses at a time.
        is_logged: whether the share of right guesses goes to the log once in a while.
    Source: Leviathan et al. 2023; Chen et al. 2023, speculative decoding.
    """

    stepper: Stepper
    n_tokens: int
    is_logged: bool = False
