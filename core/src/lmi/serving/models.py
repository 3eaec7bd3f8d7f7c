# SPDX-License-Identifier: Apache-2.0
"""A served model: its configuration, text, health and workers."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property, partial
from typing import Any

import msgspec
from starlette.routing import BaseRoute

import lmi
from lmi.api.backend import BackendInfo, Capability
from lmi.api.engine import EngineLimits
from lmi.api.errors import LmiError, NotReadyError, RequestError
from lmi.api.requests import GenerationRequest, SamplingParams
from lmi.api.texts import TextRequest
from lmi.container import Container
from lmi.loading import LoadPlan
from lmi.serving.adapter_choice import ALIAS
from lmi.serving.adapters import AdapterJournal
from lmi.serving.capabilities import as_field, refuse_undeclared, without_undeclared
from lmi.serving.chat_writing import Speech
from lmi.serving.constraints import refuse_wrong
from lmi.serving.deadlines import deadline_s
from lmi.serving.dialect import Dialect
from lmi.serving.generation import Generation
from lmi.serving.history import History
from lmi.serving.long_texts import refuse_hopeless
from lmi.serving.sessions import Sessions
from lmi.serving.timeline import Timeline
from lmi.serving.tokenizer import Tokenizer
from lmi.serving.words import cut_prompt, forbid
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker, WorkerState

_LOG = logging.getLogger(__name__)
_LONG_PROMPT_CHARS = 8192
_MOST_NOTED = 256
"""Names that are logged: callers may invent any number of them."""


class ModelState(str, Enum):
    """What a model can do now; only READY and DEGRADED answer requests."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    STALLED = "stalled"
    DRAINING = "draining"
    FAILED = "failed"


class Model:
    """One model under its name.

    Args:
        plan: everything decided before a worker starts.
        tokenizer: text to ids and back.
        backends: what is installed, to name those that offer what this one does not.
        container: what SageMaker says of the container.
        request_filters: implementations of lmi_filter_request, in order.
        text_filters: implementations of lmi_filter_text, in order.
        on_progress: called when loading moved on, with the worker that did.
        on_failed: called when the model is given up.
    """

    def __init__(
        self,
        plan: LoadPlan,
        tokenizer: Tokenizer,
        *,
        backends: Mapping[str, BackendInfo] | None = None,
        container: Container | None = None,
        request_filters: Sequence[Callable[..., Any]] = (),
        text_filters: Sequence[Callable[..., Any]] = (),
        on_progress: Callable[[Model, Worker], None] = lambda model, worker: None,
        on_failed: Callable[[Model, LmiError, Worker], None] = lambda model, error, worker: None,
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.tokenizer = tokenizer
        self.request_filters = tuple(request_filters)
        self.text_filters = tuple(text_filters)
        self._backends = backends or {}
        self._container = container or Container()
        self._left_out: set[str] = set()
        self.failure: LmiError | None = None
        self.is_draining = False
        self.is_late = False
        """It came to a server that answered already, whose health is not its."""
        self.routes: list[BaseRoute] = []
        """Those of its own file, which go with it."""
        self.timeline: Timeline | None = None
        """What was done before its workers started, of one that is late."""
        self.history = History()
        self._on_progress = on_progress
        self._on_failed = on_failed
        self.adapters = AdapterJournal(plan, lambda: self.pool, self._backends)
        self.pool = WorkerPool(
            plan,
            on_state=self._moved,
            on_failed=self._failed,
            adapters=self.adapters.wanted,
        )

    def _moved(self, worker: Worker) -> None:
        self.adapters.note(worker)
        self.history.note(worker)
        self._on_progress(self, worker)

    def _failed(self, error: LmiError, worker: Worker) -> None:
        self.failure = error
        self._on_failed(self, error, worker)

    def drain(self) -> None:
        """Take no new request, nor a new adapter; what runs goes on."""
        self.is_draining = True
        self.adapters.drain()

    # -------------------------------------------------------------------------------------------------------- health

    @property
    def state(self) -> ModelState:
        """Computed from the workers' heartbeats; instant."""
        if self.failure is not None:
            return ModelState.FAILED
        if self.is_draining:
            return ModelState.DRAINING
        ready = [worker for worker in self.pool.workers if worker.state is WorkerState.READY]
        if not ready:
            return ModelState.STARTING
        n_moving = sum(not self.pool.is_stalled(worker) for worker in ready)
        if not n_moving:
            return ModelState.STALLED
        return ModelState.READY if n_moving >= self.plan.options.min_workers else ModelState.DEGRADED

    @property
    def answers(self) -> bool:
        return self.state in (ModelState.READY, ModelState.DEGRADED)

    @property
    def gives_logprobs(self) -> bool:
        return Capability.LOGPROBS in self.plan.info.capabilities

    @property
    def draws(self) -> bool:
        """Whether tokens can be drawn, and not only be the likeliest."""
        return Capability.TEMPERATURE in self.plan.info.capabilities

    @property
    def reasons_first(self) -> bool:
        """Whether reasoning may come before what a constraint holds for; known when it is loaded."""
        return self.pool.limits is not None and self.pool.limits.reasons_first

    @cached_property
    def dialect(self) -> Dialect:
        """How it answers requests in LMI's schema."""
        return Dialect.of(self.plan)

    @cached_property
    def fingerprint(self) -> str:
        """The same for answers of the same model under the same options by the same version of LMI."""
        plan = self.plan
        made_of = (lmi.__version__, plan.info.name, plan.artifacts.folder, plan.config.model_dump_json())
        return f"fp_{hashlib.sha256(repr(made_of).encode()).hexdigest()[:10]}"

    @cached_property
    def sessions(self) -> Sessions:
        """Those that its callers have opened."""
        return Sessions(self.plan.options)

    @cached_property
    def speech(self) -> Speech:
        """How it writes in a chat."""
        return Speech.of(self.plan, self.tokenizer, lambda: self.reasons_first)

    def scale(self, n_min: int, n_max: int) -> None:
        """Change how many copies there are; those beyond ``n_max`` end when they have no request.

        Args:
            n_min: copies that run, 1 or more.
            n_max: most copies, while many requests wait.
        """
        options = self.plan.options.model_copy(update={"min_workers": n_min, "max_workers": n_max})
        self.plan = self.pool.plan = dataclasses.replace(self.plan, options=options)
        self.pool.fill()

    # ------------------------------------------------------------------------------------------------------ requests

    def deadline_s(self, headers: Mapping[str, str], *, is_stream: bool = False) -> float | None:
        """Seconds that a request may take, as ``deadlines.deadline_s`` has it."""
        return deadline_s(self.plan.options, self._container, headers, is_stream=is_stream)

    def limits_for(self, n_requests: int) -> EngineLimits:
        """What its engine can hold, if it takes so many requests now.

        Raises:
            NotReadyError, OverloadedError: it does not.
        """
        if self.is_draining:
            raise NotReadyError("model.draining", f"model {self.name!r} is shutting down", "Send it to another server")
        self.pool.check_room(n_requests)
        if self.pool.limits is None:
            stage = next((worker.stage for worker in self.pool.workers), "starting")
            raise NotReadyError(
                "model.loading", f"model {self.name!r} is loading ({stage})", "Wait until /ping answers 200"
            )
        return self.pool.limits

    async def admit(
        self,
        request: TextRequest,
        *,
        keeps_tokens: bool = False,
        asked_as: Callable[[str, Any], str] = as_field,
        drops_undeclared: bool = False,
    ) -> Generation:
        """Filter, tokenize and check one request, and start it.

        Args:
            request: in the words of this server.
            keeps_tokens: as Generation has it.
            asked_as: how the caller put a field of SamplingParams and its value, for a refusal.
            drops_undeclared: what the backend does not declare is left out with a note, not refused.
        Raises:
            RequestError: it cannot be served as it is.
            NotReadyError, OverloadedError: it cannot be served now.
        """
        request, engine_request = await self.prepare(request, asked_as=asked_as, drops_undeclared=drops_undeclared)
        generation = Generation(self, request, engine_request, keeps_tokens=keeps_tokens)
        self.start([generation])
        return generation

    def start(self, generations: list[Generation]) -> None:
        """Start what was prepared: all of it, or none.

        Raises:
            NotReadyError, OverloadedError: it cannot be served now.
            NotFoundError, EngineLoadError: an adapter has gone in the meantime.
        """
        for request in {each.request.adapter: each.request for each in generations}.values():
            self._refuse_without_adapter(request)
        asked = [generation.flight for generation in generations if generation.request.answer is None]
        if asked:
            self.pool.submit(asked)
        for generation in generations:
            if generation.request.answer is not None:
                generation.give(generation.request.answer)

    async def prepare(
        self,
        request: TextRequest,
        *,
        n_sequences: int = 1,
        asked_as: Callable[[str, Any], str] = as_field,
        drops_undeclared: bool = False,
    ) -> tuple[TextRequest, GenerationRequest]:
        """Filter, tokenize and check one request.

        Args:
            request, asked_as, drops_undeclared: as in ``admit``.
            n_sequences: how many sequences there must be room for.
        Returns:
            The request after all filters, and what the engine gets for one sequence.
        Raises:
            RequestError: it cannot be served as it is.
            NotReadyError, OverloadedError: it cannot be served now.
        """
        limits = self.limits_for(n_sequences)  # before any work is done for a request that will be refused
        sent = request.prompt
        for refine in self.request_filters:
            request = refine(request=request) or request
        if request.prompt_ids is not None and request.prompt == sent:
            prompt_ids = known_ids(request.prompt_ids, self.tokenizer.vocab_size)
        else:
            prompt_ids = await self._encoded(request, limits.max_context_tokens)
        if request.n_last_prompt_tokens is not None:
            prompt_ids = cut_prompt(self.tokenizer, prompt_ids, request.n_last_prompt_tokens)
        if request.bad_words:
            request.sampling = forbid(request.sampling, request.bad_words, self.tokenizer)
        if drops_undeclared:
            request.sampling = self._declared(request.sampling, asked_as)
        refuse_undeclared(self.plan.info, request.sampling, request.adapter, self._backends, asked_as)
        await refuse_wrong(request.sampling.constraint, self.plan.info, asked_as)
        await self.adapters.prepare(request.adapter)
        self._refuse_without_adapter(request)
        if request.fills_context:
            n_left = max(1, limits.max_context_tokens - len(prompt_ids))
            request.sampling = msgspec.structs.replace(request.sampling, max_tokens=n_left)
        _check_length(prompt_ids, request, limits.max_context_tokens, asked_as)
        return request, self._engine_request(request, prompt_ids)

    def _refuse_without_adapter(self, request: TextRequest) -> None:
        self.adapters.refuse_unknown(request.adapter, request.headers.get(ALIAS, ""))

    def _declared(self, sampling: SamplingParams, asked_as: Callable[[str, Any], str]) -> SamplingParams:
        declared, names = without_undeclared(self.plan.info, sampling)
        for name in names:
            asked = asked_as(name, getattr(sampling, name)).partition("=")[0]
            self.note_left_out(asked, f"backend {self.plan.info.name!r} does not offer it")
        return declared

    def note_left_out(self, name: str, reason: str) -> None:
        """Log once that a parameter of requests is left out, and why."""
        if name not in self._left_out and len(self._left_out) < _MOST_NOTED:
            self._left_out.add(name)
            _LOG.warning("model %s: the parameter %s is left out of requests: %s", self.name, name, reason)

    async def _encoded(self, request: TextRequest, limit: int) -> list[int]:
        encode = partial(self.tokenizer.encode, adds_special=request.adds_special)
        if len(request.prompt) <= _LONG_PROMPT_CHARS:
            return encode(request.prompt)
        if request.n_last_prompt_tokens is None:
            await asyncio.to_thread(refuse_hopeless, encode, request.prompt, limit)
        return await asyncio.to_thread(encode, request.prompt)

    def _engine_request(self, request: TextRequest, prompt_ids: list[int]) -> GenerationRequest:
        sampling = request.sampling
        if sampling.temperature > 0 and sampling.seed is None:
            # Drawn here, so that the request can resume on another worker with the same random numbers.
            sampling = msgspec.structs.replace(sampling, seed=random.getrandbits(63))
        return GenerationRequest(
            request_id=request.request_id,
            prompt_ids=prompt_ids,
            sampling=sampling,
            adapter=request.adapter,
            deadline_s=self.deadline_s(request.headers, is_stream=request.stream),
        )

    def filter_pieces(self, request: TextRequest, pieces: list[str], *, is_last: bool) -> list[str]:
        """Run lmi_filter_text over pieces of text, in order; the last one of the answer is marked."""
        filtered = []
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            text = piece
            for refine in self.text_filters:
                changed = refine(request=request, text=text, is_last=is_last and index == last)
                text = text if changed is None else changed
            filtered.append(text)
        return filtered


def known_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    """Ids that a caller sent, all of which the model has."""
    wrong = next((each for each in ids if not 0 <= each < vocab_size), None)
    if wrong is not None:
        raise RequestError(
            "request.invalid", f"the prompt has the id {wrong}; this model has ids 0 to {vocab_size - 1}",
            "Send ids of this model's tokenizer, or the text",
        )  # fmt: skip
    return list(ids)


def _check_length(prompt_ids: list[int], request: TextRequest, limit: int, asked_as: Callable[[str, Any], str]) -> None:
    """Refuse a prompt that is empty, or so long that it leaves no room for its answer."""
    if not prompt_ids:
        raise RequestError("request.empty-prompt", "the prompt has no tokens", "Send at least one token of text")
    n_prompt, max_tokens = len(prompt_ids), request.sampling.max_tokens
    over = n_prompt + max_tokens - limit
    if over <= 0:
        return
    # Many clients know a prompt that is too long by these words.
    most = f"this model's maximum context length is {limit} tokens"
    if request.fills_context:
        shorten = f"Shorten the prompt by {over} tokens at least"
        raise RequestError("request.too-long", f"the prompt has {n_prompt} tokens; {most}, answer included", shorten)
    name = asked_as("max_tokens", max_tokens).partition("=")[0]
    said = f"prompt {n_prompt} tokens + {name} {max_tokens} = {n_prompt + max_tokens}; {most}"
    if over < n_prompt:
        hint = f"Shorten the prompt by {over} tokens or lower {name}"
    else:  # a prompt cannot lose more tokens than it has
        hint = f"Lower {name}" if n_prompt < limit else f"Shorten the prompt and lower {name}"
    raise RequestError("request.too-long", said, f"{hint} to {limit - n_prompt}" if n_prompt < limit else hint)
