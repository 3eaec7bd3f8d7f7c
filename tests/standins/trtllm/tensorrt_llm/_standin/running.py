# SPDX-License-Identifier: Apache-2.0
"""The loop behind the stand-in: a thread that steps through a batch, and what it says to whoever waits."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from tensorrt_llm._standin import faults
from tensorrt_llm._standin.adapters import Adapters
from tensorrt_llm._standin.choosing import Sequence, choose
from tensorrt_llm._standin.model import ToyModel


class RequestError(RuntimeError):
    """One request failed; the others go on."""


@dataclass
class Response:
    """What one step gave one request."""

    ids: list[int] = field(default_factory=list)
    finish: str = ""
    generation_logits: Any = None
    context_logits: Any = None


@dataclass(eq=False)
class Work:
    """A request in the loop; ``say`` brings a Response, an exception or a text of an error to whoever waits."""

    request_id: int
    sequence: Sequence
    say: Callable[[Any], None]
    is_aborted: bool = False


class Executor:
    """Steps through up to ``max_batch_size`` requests at a time.

    Args:
        model: the toy.
        max_batch_size: sequences that run at the same time.
        max_seq_len: ids of one of them.
        adapters: that requests may name.
    """

    def __init__(self, model: ToyModel, max_batch_size: int, max_seq_len: int, adapters: Adapters) -> None:
        self._model, self._max_batch_size, self._max_seq_len = model, max_batch_size, max_seq_len
        self._adapters = adapters
        self._works: list[Work] = []
        self._changed = threading.Condition()
        self._is_shutdown = False
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="standin-trtllm", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence, say: Callable[[Any], None]) -> int:
        work = Work(next(self._numbers), sequence, say)
        with self._changed:
            if sequence.lora is not None:
                try:
                    sequence.adapter = self._adapters.take(sequence.lora)
                except (ValueError, OSError) as error:  # as text, to this request alone
                    say(f"Failed to load LoRA adapter: {error}")
                    return work.request_id
            self._works.append(work)
            self._changed.notify()
        return work.request_id

    def abort_request(self, request_id: int) -> None:
        with self._changed:
            for work in self._works:
                work.is_aborted = work.is_aborted or work.request_id == request_id

    def is_shutdown(self) -> bool:
        return self._is_shutdown

    def shutdown(self) -> None:
        """End the loop. As in the library, nobody who waits is told."""
        with self._changed:
            self._is_shutdown = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_shutdown or self._works)
                if self._is_shutdown:
                    return
                batch = [*self._aborted(), *self._works[: self._max_batch_size]]
            if faults.dies_now(max((len(work.sequence.output) for work in batch), default=0)):
                batch[0].say(RuntimeError("[TensorRT-LLM][ERROR] CUDA error: an illegal memory access (stand-in)"))
                return  # as in the library: one hears of it, and whoever reads that shuts the rest down
            time.sleep(faults.step_s())
            for work in batch:
                self._step(work)

    def _aborted(self) -> Iterator[Work]:
        return (work for work in self._works[self._max_batch_size :] if work.is_aborted)

    def _step(self, work: Work) -> None:
        try:
            response: Any = Response(finish="cancelled") if work.is_aborted else self._next(work.sequence)
        except ValueError as error:
            response = str(error)  # an error of this request alone travels as text
        if isinstance(response, str) or response.finish:
            with self._changed:
                self._works.remove(work)
                if work.sequence.lora is not None:
                    self._adapters.give_back(work.sequence.lora)
        work.say(response)

    def _next(self, sequence: Sequence) -> Response:
        params, is_first = sequence.params, not sequence.output
        response = Response()
        if is_first and params.return_context_logits:
            places = range(1, sequence.n_prompt + 1)
            rows = [self._model.logits(sequence.ids[:place], sequence.adapter) for place in places]
            response.context_logits = torch.stack([torch.from_numpy(row) for row in rows])
        raw = self._model.logits(sequence.ids, sequence.adapter)
        token_id = choose(raw, sequence)
        if token_id == params.end_id and not params.ignore_eos:
            response.finish = "end_id"  # the decoder does not count it as output
            return response
        sequence.ids.append(token_id)
        response.ids = [token_id]
        if params.return_generation_logits:
            response.generation_logits = torch.from_numpy(raw)[None]
        if token_id in (params.stop_token_ids or ()):
            response.finish = "stop_words"
        elif len(sequence.output) >= params.max_tokens or len(sequence.ids) >= self._max_seq_len:
            response.finish = "length"
        return response
