# SPDX-License-Identifier: Apache-2.0
"""A model that answers whole calls, one at a time: what a backend gives for tasks that have no steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from lmi.api.abilities import TaskRequest

Inputs: TypeAlias = dict[str, list[list[int]]]
"""What a model is called with, by the names of its arguments: integers, ``[n_rows, n_tokens]``."""

Compute: TypeAlias = Callable[[Inputs], Any]
"""``Answerer.compute``, of this process alone or of all ranks."""


class AnswererLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an answerer can take; all ranks must have the same.

    Args:
        max_context_tokens: of one input.
        vocab_size: number of token ids; 0 where it takes any id.
    """

    max_context_tokens: int
    vocab_size: int = 0


class Answerer(ABC):
    """A model that answers calls; the core queues them, and has every rank compute alike.

    Every call comes from one thread, never two at once. Constructed means loaded and ready. A class that answers
    something extends ``Classifier`` or ``TaskRunner``: their methods run on rank 0 alone, and reach the model through
    the ``compute`` that they are given, so that whatever is wrong with a request is found on one rank, before any
    other has heard of it.

    Attributes:
        limits: what it can take.
    """

    limits: AnswererLimits

    @abstractmethod
    def compute(self, inputs: Inputs) -> Any:
        """Run the model once; where there are several ranks, all of them do, each with its part of the weights.

        Returns:
            Whatever the methods below make answers of; only rank 0's counts.
        Raises:
            OutOfMemoryError: the device is full.
            EngineDeadError: the device failed. Any exception ends the worker, since ranks may be out of step.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the device; calling it twice is fine."""


class Classifier(Answerer):
    """A model with labels. Needed where a backend does ``Task.CLASSIFY`` and gives no Engine."""

    @abstractmethod
    def classify(self, prompts: list[list[int]], compute: Compute) -> list[list[float]]:
        """One list a prompt, in order: a probability for each label, in the order of ``id2label`` in config.json.

        Args:
            prompts: token ids, special tokens included, each at most ``limits.max_context_tokens`` long.
            compute: runs the model; a caller that leaves ends the call there.
        Raises:
            RequestError: a prompt cannot be read; others go on.
        """


class TaskRunner(Answerer):
    """A model that gets text. Needed where a task ``takes_whole_requests`` and the backend gives no Engine."""

    @abstractmethod
    def run_task(self, request: TaskRequest, compute: Compute) -> bytes:
        """The answer to one request, as JSON.

        Args:
            request: its body is checked, and in one form: ``inputs`` as they came, one or a list, and all that was
                given beside them in ``parameters``. One input gets its answer, a list a list of answers.
            compute: runs the model; a caller that leaves ends the call there.
        Raises:
            RequestError: an input is too long, or not what the model can take; others go on.
        """
