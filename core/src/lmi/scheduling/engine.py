# SPDX-License-Identifier: Apache-2.0
"""A stepper as an Engine: one thread plans, steps, samples and hands the tokens to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    GenerationRequest,
    LmiError,
    StepOutput,
    Stepper,
    TokenChunk,
    TokenLogprob,
)
from lmi.scheduling.active import ActiveRequest
from lmi.scheduling.admission import check_request
from lmi.scheduling.scheduler import Plan, Scheduler
from lmi.scheduling.streams import Delivery, Stream, deliver

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class StepperEngine(Engine):
    """Continuous batching over a stepper.

    Every call of the stepper comes from one thread of this engine, which sleeps while there is nothing to do. The
    event loop never waits for a step.

    Args:
        stepper: loaded and ready; closed with the engine.
        eos_token_ids: the model's end-of-sequence ids.
        max_batch_size: most requests that run at the same time; None for all slots of the stepper.
    """

    def __init__(
        self, stepper: Stepper, eos_token_ids: Sequence[int] = (), *, max_batch_size: int | None = None
    ) -> None:
        self.stepper = stepper
        self._eos_token_ids = tuple(eos_token_ids)
        self._scheduler: Scheduler[Stream] = Scheduler(stepper.limits, max_batch_size=max_batch_size)
        self.limits = EngineLimits(
            max_context_tokens=stepper.limits.max_context_tokens,
            max_batch_size=self._scheduler.n_slots,
            vocab_size=stepper.limits.vocab_size,
        )
        self._chooser = _Chooser(stepper)
        # (stream, True) arrives, (stream, False) leaves. Appending to a deque needs no lock; the event ends a sleep.
        self._inbox: deque[tuple[Stream, bool]] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lmi-steps", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse_if_ended()
        check_request(request, self.stepper.limits)
        stream = Stream(request, self._eos_token_ids, self.limits.vocab_size, asyncio.get_running_loop())
        finish = stream.active.finish_on_arrival()
        if finish is not None:
            yield TokenChunk(ids=[], finish=finish, usage=stream.active.usage)
            return
        self._send(stream, True)
        try:
            self._refuse_if_ended()  # it may have ended after the first look, and emptied the inbox before we sent
            while finish is None:
                chunk = await stream.next()
                finish = chunk.finish
                yield chunk
        finally:
            if finish is None:
                self._send(stream, False)

    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    async def check_health(self) -> None:
        self._refuse_if_ended()

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _send(self, stream: Stream, is_arrival: bool) -> None:
        self._inbox.append((stream, is_arrival))
        self._wake.set()

    def _refuse_if_ended(self) -> None:
        end = self._describe_end()
        if end is not None:
            raise end

    def _describe_end(self) -> EngineDeadError | None:
        if self._death is not None:
            return _dead(self._death)
        return _closed() if self._is_closing else None

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._turn()
        except BaseException as error:  # whatever it is, the open streams must hear of it
            log.exception("A step failed; the engine stops.")
            self._death = error
        self._fail_all()
        try:
            self.stepper.close()
        except Exception:
            log.exception("The stepper could not be closed.")

    def _fail_all(self) -> None:
        self._take_inbox()
        streams = [active.owner for active in (*self._scheduler.running, *self._scheduler.waiting)]
        deliver([(stream, self._describe_end() or _closed()) for stream in streams])

    def _turn(self) -> None:
        """One step, or a sleep until there is something to do."""
        self._wake.clear()  # before the inbox is read: what comes later sets it again
        self._take_inbox()
        plan = self._scheduler.plan()
        for slot in self._scheduler.take_released():
            self.stepper.release(slot)
        if plan is not None:
            self._step(plan)
        elif self._scheduler.has_work:
            stats = self._scheduler.stats()
            raise RuntimeError(f"the scheduler found nothing to do for {stats}")
        elif not self._is_closing:
            self._wake.wait()

    def _take_inbox(self) -> None:
        while self._inbox:
            stream, is_arrival = self._inbox.popleft()
            if is_arrival:
                self._scheduler.add(stream.active)
            else:
                self._scheduler.remove(stream.active)

    def _step(self, plan: Plan[Stream]) -> None:
        output = self.stepper.step(plan.batch)
        self._scheduler.commit(plan)
        self._chooser.score_prompts(plan, output)
        ids, scores = self._chooser.choose(plan, output)
        deliveries: list[Delivery] = []
        for (_, active), token_id, score in zip(plan.sampled, ids, scores, strict=True):
            deliveries.append((active.owner, self._advance(active, token_id, score)))
        for stream in deliver(deliveries):
            self._scheduler.remove(stream.active)

    def _advance(
        self, active: ActiveRequest[Stream], token_id: int, score: TokenLogprob | None
    ) -> TokenChunk | Exception:
        """Take note of a request's new token; what its reader gets."""
        if token_id < 0:
            self._scheduler.remove(active)
            return _no_choice(active)
        active.ids.append(token_id)
        active.owner.row.append(token_id)
        prompt_logprobs, active.prompt_logprobs = active.prompt_logprobs, None
        finish = active.finish_on(token_id)
        if finish is not None:
            self._scheduler.remove(active)
        return TokenChunk(
            ids=[token_id],
            logprobs=None if score is None else [score],
            prompt_logprobs=prompt_logprobs,
            finish=finish,
            usage=None if finish is None else active.usage,
        )


class _Chooser:
    """Turns a step's output into one id a request; torch is needed only if the stepper returns logits."""

    def __init__(self, stepper: Stepper) -> None:
        self._limits = stepper.limits
        if not stepper.limits.samples_on_device:
            from lmi.scheduling.sampling import Sampler

            self._sampler = Sampler(stepper.limits.vocab_size)

    def choose(self, plan: Plan[Stream], output: StepOutput) -> tuple[list[int], list[TokenLogprob | None]]:
        """The ids of ``plan.sampled`` (-1 where the logits leave no choice) and the log probabilities asked for."""
        places = [place for place, _ in plan.sampled]
        scores: list[TokenLogprob | None] = [None] * len(places)
        if not places:
            return [], scores
        if self._limits.samples_on_device:
            ids = self._device_ids(plan, output)
            return [ids[place] for place in places], scores
        logits = self._logits(plan, output)
        if len(places) < plan.n_rows:
            logits = logits[places]
        ids = self._sampler.sample(logits, [active.owner.row for _, active in plan.sampled])
        self._score(logits, ids, plan, scores)
        return ids, scores

    def _score(
        self, logits: torch.Tensor, ids: list[int], plan: Plan[Stream], scores: list[TokenLogprob | None]
    ) -> None:
        asked = [active.request.sampling.n_logprobs for _, active in plan.sampled]
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


def _dead(cause: BaseException) -> EngineDeadError:
    text = f"a step failed with {type(cause).__name__}: {cause}"
    error = EngineDeadError("engine.died", text, "Its worker ends and its requests resume on another; see its log.")
    error.__cause__ = cause
    return error


def _closed() -> EngineDeadError:
    return EngineDeadError("engine.closed", "the engine is closed", "Send the request to a running engine.")


def _no_choice(active: ActiveRequest[Stream]) -> LmiError:
    text = (
        f"the model's logits for output token {active.n_output} of request {active.request.request_id} are not finite"
    )
    return LmiError("engine.no-finite-logits", text, "Try dtype fp32, or leave out the request's unusual biases.")
