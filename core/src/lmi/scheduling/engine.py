# SPDX-License-Identifier: Apache-2.0
"""A stepper as an Engine: one thread plans, steps, samples and hands the tokens to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future

import msgspec

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    GenerationRequest,
    LmiError,
    RequestError,
    Stepper,
    TokenChunk,
    TokenLogprob,
)
from lmi.scheduling.active import ActiveRequest
from lmi.scheduling.admission import check_request
from lmi.scheduling.choosing import Chooser
from lmi.scheduling.guides import Guides
from lmi.scheduling.scheduler import Plan, Scheduler
from lmi.scheduling.speculation import Speculation, Trail, joined
from lmi.scheduling.streams import Delivery, Stream, deliver

log = logging.getLogger(__name__)


class StepperEngine(Engine):
    """Continuous batching over a stepper.

    Every call of the stepper comes from one thread of this engine, which sleeps while there is nothing to do. The
    event loop never waits for a step.

    Args:
        stepper: loaded and ready; closed with the engine.
        eos_token_ids: the model's end-of-sequence ids.
        max_batch_size: most requests that run at the same time; None for all slots of the stepper.
        read_tokenizer: gives the model's tokenizer.json, as text, for constraints; None where there are none.
    """

    def __init__(
        self,
        stepper: Stepper,
        eos_token_ids: Sequence[int] = (),
        *,
        max_batch_size: int | None = None,
        read_tokenizer: Callable[[], str] | None = None,
    ) -> None:
        self.stepper = stepper
        self._eos_token_ids = tuple(eos_token_ids)
        self._scheduler: Scheduler[Stream] = Scheduler(stepper.limits, max_batch_size=max_batch_size)
        self._guides: Guides | None = None
        if read_tokenizer is not None and not stepper.limits.samples_on_device:
            self._guides = Guides(read_tokenizer, eos_token_ids, stepper.limits.vocab_size)
        self.limits = EngineLimits(
            max_context_tokens=stepper.limits.max_context_tokens,
            max_batch_size=self._scheduler.n_slots,
            vocab_size=stepper.limits.vocab_size,
            reasons_first=self._guides is not None,
        )
        self._adapters: Collection[str] | None = None  # names that requests may use; None where they may use none
        self._chooser = Chooser(stepper.limits, self._guides)
        self._speculation = Speculation(stepper.draft, stepper.limits) if stepper.draft is not None else None
        # (stream, True) arrives, (stream, False) leaves. Appending to a deque needs no lock; the event ends a sleep.
        self._inbox: deque[tuple[Stream, bool]] = deque()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lmi-steps", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse_if_ended()
        takes_constraints = self._guides is not None
        check_request(request, self.stepper.limits, takes_constraints=takes_constraints, adapters=self._adapters)
        stream = Stream(request, self._eos_token_ids, self.limits.vocab_size, asyncio.get_running_loop())
        finish = stream.active.finish_on_arrival()
        if finish is not None:
            yield TokenChunk(ids=[], finish=finish, usage=stream.active.usage)
            return
        if self._guides is not None and request.sampling.constraint is not None:
            try:
                stream.row.guide = await self._guides.guide(request)
            except (RuntimeError, asyncio.CancelledError):
                self._refuse_if_ended()  # closing cancels what has not begun to be compiled
                raise
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
        stats, speculation = self._scheduler.stats(), self._speculation
        if speculation is None:
            return stats
        n_guessed, n_accepted = speculation.n_guessed, speculation.n_accepted
        return msgspec.structs.replace(stats, n_guessed_tokens=n_guessed, n_accepted_tokens=n_accepted)

    async def check_health(self) -> None:
        self._refuse_if_ended()

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        if self._guides is not None:
            self._guides.close()
        await asyncio.to_thread(self._thread.join)

    def _send(self, stream: Stream, is_arrival: bool) -> None:
        self._inbox.append((stream, is_arrival))
        self._wake.set()

    async def _between_steps(self, call: Callable[[], None]) -> None:
        """Call something in the thread of the steps, when requests that have ended by now have left their slots.

        Raises:
            EngineDeadError: the engine ended before.
        """
        done: Future[None] = Future()
        self._calls.append((call, done))
        self._wake.set()
        self._refuse_if_ended()  # as in generate
        await asyncio.wrap_future(done)

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
            if self._speculation is not None:
                self._speculation.close()
            self.stepper.close()
        except Exception:
            log.exception("The stepper could not be closed.")

    def _fail_all(self) -> None:
        self._take_inbox()
        streams = [active.owner for active in (*self._scheduler.running, *self._scheduler.waiting)]
        deliver([(stream, self._describe_end() or _closed()) for stream in streams])
        while self._calls:
            done = self._calls.popleft()[1]
            if done.set_running_or_notify_cancel():
                done.set_exception(self._describe_end() or _closed())

    def _turn(self) -> None:
        """One step, or a sleep until there is something to do."""
        self._wake.clear()  # before the inbox is read: what comes later sets it again
        self._take_inbox()
        plan = self._scheduler.plan()
        released = self._scheduler.take_released()
        for slot in released:
            self.stepper.release(slot)
        if self._speculation is not None:
            self._speculation.release(released)
        self._make_calls()
        if plan is not None:
            self._step(plan)
        elif self._scheduler.has_work:
            stats = self._scheduler.stats()
            raise RuntimeError(f"the scheduler found nothing to do for {stats}")
        elif not self._is_closing:
            self._wake.wait()

    def _make_calls(self) -> None:
        while self._calls:
            call, done = self._calls.popleft()
            if not done.set_running_or_notify_cancel():  # nobody wants it any more
                continue
            try:
                call()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _take_inbox(self) -> None:
        while self._inbox:
            stream, is_arrival = self._inbox.popleft()
            if is_arrival:
                self._scheduler.add(stream.active)
            else:
                self._scheduler.remove(stream.active)

    def _step(self, plan: Plan[Stream]) -> None:
        if self._speculation is not None:
            self._speculation.guess(plan, self._scheduler.kv_used_tokens)
        trails = {active: Trail.of(plan, row, active) for row, active in plan.sampled} if plan.guesses else {}
        output = self.stepper.step(plan.batch)
        self._scheduler.commit(plan)
        self._chooser.score_prompts(plan, output)
        deliveries: list[Delivery] = []
        sampled = plan.sampled
        while sampled:
            ids, scores = self._chooser.choose(plan, output, sampled)
            items = [
                self._advance(active, token_id, score)
                for (_, active), token_id, score in zip(sampled, ids, scores, strict=True)
            ]
            deliveries += [(active.owner, item) for (_, active), item in zip(sampled, items, strict=True)]
            if not trails:
                break
            going = [trails[active].next(item) for (_, active), item in zip(sampled, items, strict=True)]
            sampled = [each for each in going if each is not None]
        self._forget_wrong(trails.values())
        for stream in deliver(joined(deliveries) if trails else deliveries):
            self._scheduler.remove(stream.active)

    def _forget_wrong(self, trails: Iterable[Trail]) -> None:
        """Keep in the caches what guesses were right."""
        for trail in trails:
            if not trail.guesses or self._speculation is None:
                continue
            if trail.active.slot == trail.slot:  # else it ended, and its slot is forgotten altogether
                self._scheduler.keep(trail.active, trail.n_accepted)
                if trail.n_accepted < len(trail.guesses):
                    self.stepper.truncate(trail.slot, trail.active.n_cached)
            self._speculation.accept(trail.slot, trail.n_ids, trail.n_accepted)

    def _advance(
        self, active: ActiveRequest[Stream], token_id: int, score: TokenLogprob | None
    ) -> TokenChunk | Exception:
        """Take note of a request's new token; what its reader gets."""
        if token_id < 0:
            self._scheduler.remove(active)
            return _no_choice(active, self.limits.vocab_size)
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


def _dead(cause: BaseException) -> EngineDeadError:
    text = f"a step failed with {type(cause).__name__}: {cause}"
    error = EngineDeadError("engine.died", text, "Its worker ends and its requests resume on another; see its log.")
    error.__cause__ = cause
    return error


def _closed() -> EngineDeadError:
    return EngineDeadError("engine.closed", "the engine is closed", "Send the request to a running engine.")


def _no_choice(active: ActiveRequest[Stream], vocab_size: int) -> LmiError:
    row = active.owner.row
    reason = None if row.guide is None else row.guide.dead_end(row, vocab_size)
    if reason is not None:
        text = f"output token {active.n_output} of request {active.request.request_id} cannot keep to its constraint"
        return RequestError("request.constraint-failed", f"{text}: {reason}", "Change the constraint or the rest")
    text = (
        f"the model's logits for output token {active.n_output} of request {active.request.request_id} are not finite"
    )
    return LmiError("engine.no-finite-logits", text, "Try dtype fp32, or leave out the request's unusual biases.")
