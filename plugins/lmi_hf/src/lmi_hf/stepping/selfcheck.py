# SPDX-License-Identifier: Apache-2.0
"""Does a stepper compute what the model computes? Asked of each model at load, with random ids, before it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lmi.api import Decode, Prefill, StepBatch, Stepper

# Relative distance of logits that rounding explains: a wrong position, mask or neighbour gives 0.3 and more. In half
# precision the distance is the median over positions, because one rounded router choice of a mixture moves a position.
# Of activations in 8 bits a last digit that differs may fall on the other side: with its own cache, SmolLM2-135M
# reading a prompt in two pieces is 0.12 away from reading it at once on one processor, and below 0.1 on others.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1, torch.int8: 0.2}
_N_DECODES = 3
_LARGEST_CHECKED_WINDOW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Random sequences and the logits that one plain forward of the model gives for them.

    Args:
        ids: one list a sequence.
        logits: one tensor [len(ids), vocab_size] a sequence, float32.
    """

    ids: list[list[int]]
    logits: list[torch.Tensor]


def make_reference(model: Any, vocab_size: int, device: torch.device) -> Reference:
    """Run the model, as it was loaded, over three short random sequences; one is longer than a small window."""
    window = int(getattr(model.config.get_text_config(), "sliding_window", None) or 0)
    lengths = (13, 6, window + 9 if window <= _LARGEST_CHECKED_WINDOW_TOKENS else 9)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, vocab_size, (length,), generator=generator) for length in lengths]
    with torch.inference_mode():
        logits = [model(input_ids=row[None].to(device), use_cache=False).logits[0].float().cpu() for row in ids]
    return Reference(ids=[row.tolist() for row in ids], logits=logits)


def distance(stepper: Stepper, reference: Reference, dtype: torch.dtype) -> float:
    """Step the reference's sequences side by side, the first prompt in two chunks, and compare all logits.

    Returns:
        Relative distance of the logits: 0 is equal, above 0.3 unrelated. The stepper's slots are free again.
    """
    n = min(len(reference.ids), stepper.limits.max_slots)
    errors: list[float] = []

    def run(prefills: list[Prefill], decodes: list[Decode]) -> None:
        logits = stepper.step(StepBatch(prefills=prefills, decodes=decodes)).logits
        assert logits is not None  # noqa: S101 - this stepper returns logits
        found = logits.float().cpu()
        entries: list[Prefill | Decode] = [*prefills, *decodes]
        for entry in entries:
            end = entry.start + len(entry.ids)
            wanted = reference.logits[entry.slot][end - entry.n_logits : end]
            errors.extend(_relative_errors(found[: entry.n_logits], wanted))
            found = found[entry.n_logits :]

    prompts = [ids[: len(ids) - _N_DECODES] for ids in reference.ids[:n]]
    cut = len(prompts[0]) // 2
    run([Prefill(slot=0, ids=prompts[0][:cut], start=0, n_logits=0), *map(_whole, range(1, n), prompts[1:])], [])
    rest = Prefill(slot=0, ids=prompts[0][cut:], start=cut, n_logits=len(prompts[0]) - cut)
    run([rest], [_decode(reference, slot, len(prompts[slot])) for slot in range(1, n)])
    for number in range(_N_DECODES - 1):
        starts = [len(prompts[0]) + number, *(len(prompt) + number + 1 for prompt in prompts[1:])]
        run([], [_decode(reference, slot, start) for slot, start in enumerate(starts)])
    for slot in range(n):
        stepper.release(slot)
    ordered = sorted(errors)
    return ordered[-1] if dtype == torch.float32 else ordered[len(ordered) // 2]


def is_close(found: float, dtype: torch.dtype) -> bool:
    """Whether rounding explains a distance; a distance that is not a number never is."""
    return found <= _TOLERANCE.get(dtype, 0.1)


def _whole(slot: int, ids: list[int]) -> Prefill:
    return Prefill(slot=slot, ids=ids, start=0, n_logits=len(ids))


def _decode(reference: Reference, slot: int, start: int) -> Decode:
    return Decode(slot=slot, ids=[reference.ids[slot][start]], start=start)


def _relative_errors(found: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    found = found - found.mean(-1, keepdim=True)
    wanted = wanted - wanted.mean(-1, keepdim=True)
    errors: list[float] = (
        ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-12)).nan_to_num(1e9).tolist()
    )
    return errors
