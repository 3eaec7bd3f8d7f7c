# SPDX-License-Identifier: Apache-2.0
"""From a step's output to the next ids of its requests, and the log probabilities that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmi.api import EngineDeadError, StepOutput, StepperLimits, TokenLogprob
from lmi.scheduling.active import ActiveRequest
from lmi.scheduling.guides import Guides
from lmi.scheduling.scheduler import Plan
from lmi.scheduling.streams import Stream

if TYPE_CHECKING:
    import torch


class Chooser:
    """Turns a step's output into one id a request; torch is needed only if the stepper returns logits.

    Args:
        limits: of the stepper.
        guides: compute the masks of requests with a constraint; None where no request has one.
    """

    def __init__(self, limits: StepperLimits, guides: Guides | None = None) -> None:
        self._limits = limits
        self._guides = guides
        if not limits.samples_on_device:
            from lmi.scheduling.sampling import Sampler

            self._sampler = Sampler(limits.vocab_size)

    def choose(
        self, plan: Plan[Stream], output: StepOutput, sampled: Sequence[tuple[int, ActiveRequest[Stream]]]
    ) -> tuple[list[int], list[TokenLogprob | None]]:
        """The ids of some rows (-1 where the logits leave no choice) and the log probabilities asked for.

        Args:
            plan, output: of the step.
            sampled: rows of the output, and the request of each; all or some of the plan's, and those of guesses.
        """
        places = [place for place, _ in sampled]
        scores: list[TokenLogprob | None] = [None] * len(places)
        if not places:
            return [], scores
        if self._limits.samples_on_device:
            ids = self._device_ids(plan, output)
            return [ids[place] for place in places], scores
        logits = self._logits(plan, output)
        if len(places) < plan.n_rows:
            logits = logits[places]
        rows = [active.owner.row for _, active in sampled]
        guided = [row.guide for row in rows if row.guide is not None]
        if guided and self._guides is not None:
            self._guides.fill(guided)
        ids = self._sampler.sample(logits, rows)
        self._score(logits, ids, [active.request.sampling.n_logprobs for _, active in sampled], scores)
        return ids, scores

    def _score(
        self, logits: torch.Tensor, ids: list[int], asked: list[int | None], scores: list[TokenLogprob | None]
    ) -> None:
        wanted = [i for i, n in enumerate(asked) if n is not None and ids[i] >= 0]
        if wanted:
            rows = logits if len(wanted) == len(ids) else logits[wanted]
            found = self._sampler.score(rows, [ids[i] for i in wanted], [asked[i] or 0 for i in wanted])
            for i, score in zip(wanted, found, strict=True):
                scores[i] = score

    def score_prompts(self, plan: Plan[Stream], output: StepOutput) -> None:
        """Add the log probabilities of the prompt ids that this step has logits for."""
        for first, n_rows, active in plan.scored:
            scores = active.prompt_logprobs
            if scores is not None:
                ids = active.ids[len(scores) : len(scores) + n_rows]
                n_top = active.request.sampling.n_prompt_logprobs or 0
                logits = self._logits(plan, output)[first : first + n_rows]
                scores += self._sampler.score(logits, ids, [n_top] * n_rows)

    def _logits(self, plan: Plan[Stream], output: StepOutput) -> torch.Tensor:
        if output.logits is not None and not hasattr(output.logits, "is_floating_point"):
            text = f"the stepper returned logits as {type(output.logits).__module__}.{type(output.logits).__qualname__}"
            raise EngineDeadError("engine.wrong-output", text, "Return a torch.Tensor of floats; torch.from_numpy(...)")
        if output.logits is not None and not output.logits.is_floating_point():
            text = f"the stepper returned logits of {output.logits.dtype}"
            raise EngineDeadError("engine.wrong-output", text, "Return floats")
        wanted = (plan.n_rows, self._limits.vocab_size)
        shape = None if output.logits is None else tuple(output.logits.shape)
        if output.logits is None or shape != wanted:
            text = f"the stepper returned logits of shape {shape}; the step asked for {wanted}"
            raise EngineDeadError("engine.wrong-output", text, "This is a fault in the backend.")
        return output.logits

    def _device_ids(self, plan: Plan[Stream], output: StepOutput) -> list[int]:
        n_ids = None if output.ids is None else len(output.ids)
        if output.ids is None or n_ids != plan.n_rows:
            text = f"the stepper returned {n_ids} ids; the step asked for {plan.n_rows}"
            raise EngineDeadError("engine.wrong-output", text, "This is a fault in the backend.")
        return output.ids
