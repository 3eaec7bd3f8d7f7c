# SPDX-License-Identifier: Apache-2.0
"""Models with a head, as the core's answerers."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from lmi.api import (
    Answerer,
    Classifier,
    Compute,
    Inputs,
    ModelArtifacts,
    Progress,
    RequestError,
    Task,
    TaskRequest,
    TaskRunner,
)
from lmi_hf.config import HFConfig
from lmi_hf.engine import load_model, loaded
from lmi_hf.tasks.heads import called, limits_of, load_head, load_tokenizer

log = logging.getLogger(__name__)

_MOST_ROWS = 32
_CPU_TOKENS, _CUDA_TOKENS = 4096, 32768
"""Tokens of one call, padding included: on a processor more in a call are no faster."""


def answerer_of(
    artifacts: ModelArtifacts,
    task: Task,
    load: Callable[[], Any],
    *,
    most_tokens: int,
    trust_remote_code: bool,
    n_threads: int,
    progress: Progress,
) -> Answerer:
    """What answers with the model that ``load`` returns.

    Args:
        artifacts: the model.
        task: one of ``HEADS``.
        load: returns the model, in evaluation mode; on several ranks, this one's part.
        most_tokens: of one input; 0 for what the model takes.
        trust_remote_code: whether the tokenizer's own code may run.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: it could not be loaded; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    torch.set_num_threads(n_threads)

    def make() -> tuple[Any, Answerer]:
        model = load()
        if task is Task.CLASSIFY:
            return model, TextLabeler(model, most_tokens)
        progress("load tokenizer")
        return model, _kind(task)(model, load_tokenizer(artifacts, trust_remote_code=trust_remote_code), most_tokens)

    made: tuple[Any, Answerer] = loaded(artifacts, make)
    model, answerer = made
    dtype, device = str(model.dtype).removeprefix("torch."), next(model.parameters()).device
    said = f"{type(model).__name__} in {dtype} on {device}"
    log.info("%s, %d threads: inputs of %d tokens", said, n_threads, answerer.limits.max_context_tokens)
    return answerer


def _kind(task: Task) -> Callable[..., TextAnswerer]:
    from lmi_hf.tasks.questions import QuestionAnswerer
    from lmi_hf.tasks.words import MaskFiller, WordLabeler

    kinds: dict[Task, Callable[..., TextAnswerer]] = {
        Task.TOKEN_CLASSIFICATION: WordLabeler,
        Task.FILL_MASK: MaskFiller,
        Task.QUESTION_ANSWERING: QuestionAnswerer,
    }
    return kinds[task]


def load_answerer(
    artifacts: ModelArtifacts, config: HFConfig, task: Task, n_threads: int, progress: Progress
) -> Answerer:
    """What answers with a model of the backend hf.

    Args:
        artifacts, task, n_threads, progress: as ``answerer_of`` has them.
        config: options.
    Raises:
        EngineLoadError, OutOfMemoryError: as ``answerer_of`` does.
    """

    def whole(artifacts: ModelArtifacts, arguments: dict[str, Any], progress: Progress) -> Any:
        return load_head(artifacts, arguments, task, progress)

    return answerer_of(
        artifacts,
        task,
        lambda: load_model(artifacts, config, progress, whole),
        most_tokens=config.max_model_len,
        trust_remote_code=config.trust_remote_code,
        n_threads=n_threads,
        progress=progress,
    )


class TextLabeler(Classifier):
    """Labels of texts.

    Args:
        model: with a head for labels.
        most_tokens: see ``answerer_of``.
    """

    def __init__(self, model: Any, most_tokens: int) -> None:
        self._model = model
        self.limits = limits_of(model, None, most_tokens)
        config = model.config
        self._pad_id: int | None = config.get_text_config().pad_token_id
        self._kind: str = config.problem_type or (
            "single_label_classification" if config.num_labels > 1 else "multi_label_classification"
        )
        is_cpu = next(model.parameters()).device.type == "cpu"
        self._most_at_once = _CPU_TOKENS if is_cpu else _CUDA_TOKENS

    def compute(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return called(self._model, inputs)

    def classify(self, prompts: list[list[int]], compute: Compute) -> list[list[float]]:
        found: list[list[float]] = [[]] * len(prompts)
        for batch in self._batches(prompts):
            (logits,) = compute(self._padded([prompts[index] for index in batch]))
            for index, scores in zip(batch, self._scores(logits), strict=True):
                found[index] = scores
        return found

    def close(self) -> None:
        self._model = None

    def _batches(self, prompts: list[list[int]]) -> Iterator[list[int]]:
        """Numbers of prompts that are read together: alike in length where nothing can be put behind a short one."""
        batch: list[int] = []
        for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
            n_tokens = len(prompts[index])
            is_full = len(batch) == _MOST_ROWS or (len(batch) + 1) * n_tokens > self._most_at_once
            if batch and (is_full or (self._pad_id is None and len(prompts[batch[0]]) != n_tokens)):
                yield batch
                batch = []
            batch.append(index)
        yield batch

    def _padded(self, prompts: list[list[int]]) -> Inputs:
        longest = max(map(len, prompts))
        pad_id = self._pad_id or 0
        return {
            "input_ids": [[*ids, *[pad_id] * (longest - len(ids))] for ids in prompts],
            "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids in prompts],
        }

    def _scores(self, logits: torch.Tensor) -> list[list[float]]:
        """As transformers' pipeline makes them of logits."""
        if self._kind == "single_label_classification":
            logits = logits.softmax(-1)
        elif self._kind == "multi_label_classification":
            logits = logits.sigmoid()
        scores: list[list[float]] = logits.tolist()
        return scores


class TextAnswerer(TaskRunner):
    """What answers requests with texts: one after the other.

    Args:
        model: with the head that the task needs.
        tokenizer: its own.
        most_tokens: see ``answerer_of``.
    """

    def __init__(self, model: Any, tokenizer: Any, most_tokens: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits_of(model, tokenizer, most_tokens)
        tokenizer.model_max_length = self.limits.max_context_tokens

    def compute(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return called(self.model, inputs)

    def run_task(self, request: TaskRequest, compute: Compute) -> bytes:
        content = msgspec.json.decode(request.body)
        inputs, parameters = content["inputs"], content["parameters"]
        if not isinstance(inputs, list):
            return encoded(self.answer("inputs", inputs, parameters, compute))
        answers = [self.answer(f"inputs[{index}]", each, parameters, compute) for index, each in enumerate(inputs)]
        return encoded(answers)

    @abstractmethod
    def answer(self, name: str, given: Any, parameters: dict[str, Any], compute: Compute) -> Any:
        """The answer to one input.

        Args:
            name: of the input, for messages.
            given: the input.
            parameters: all of the task's.
            compute: runs the model.
        Raises:
            RequestError: it is too long, or not what the model can take.
        """

    def close(self) -> None:
        self.model = None

    def refuse_too_long(self, name: str, n_tokens: int, otherwise: str = "") -> None:
        """Refuse an input that the model cannot read at once.

        Args:
            name: of the input.
            n_tokens: its length.
            otherwise: what else may be done than to shorten it.
        Raises:
            RequestError: it is too long.
        """
        limit = self.limits.max_context_tokens
        if n_tokens > limit:
            raise RequestError(
                "request.too-long",
                f"{name} has {n_tokens} tokens; this model takes {limit}",
                f"Shorten it by {n_tokens - limit} tokens{otherwise}",
            )


def encoded(answer: Any) -> bytes:
    """An answer as JSON; numbers of numpy become Python's."""
    return msgspec.json.encode(answer, enc_hook=lambda value: value.item())
