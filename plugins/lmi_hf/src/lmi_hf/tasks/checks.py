# SPDX-License-Identifier: Apache-2.0
"""What speaks against a task with a model, as config.json and the installed transformers tell; nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmi.api import ArtifactFormat, ModelArtifacts, Problem, Task, task_of, task_of_model
from lmi_hf import library


@dataclass(frozen=True)
class Head:
    """How transformers calls what a task needs.

    Args:
        ending: of the model's class.
        auto_class: that loads it.
        table: of the model types that have it.
    """

    ending: str
    auto_class: str
    table: str


HEADS = {
    Task.CLASSIFY: Head(
        "ForSequenceClassification",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    ),
    Task.TOKEN_CLASSIFICATION: Head(
        "ForTokenClassification", "AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"
    ),
    Task.FILL_MASK: Head("ForMaskedLM", "AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    Task.QUESTION_ANSWERING: Head(
        "ForQuestionAnswering", "AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"
    ),
}
"""Task -> the head that it needs."""

TASKS = (Task.GENERATE, *HEADS)
"""What backends that build on this package do."""

TEXT_TO_TEXT = "text2text-generation"
WHY_NO_TEXT_TO_TEXT = (
    "encoder-decoder models are not served: continuous batching steps decoders alone, and transformers 5 has no "
    "pipeline for them"
)


def check_head(artifacts: ModelArtifacts, asked: str | None, backend: str) -> Iterator[Problem]:
    """Say that a model lacks the head of the task that it is served for.

    Args:
        artifacts: the model.
        asked: the value of ``option.task``.
        backend: name of the backend.
    """
    task, made_for = task_of(artifacts, asked), task_of_model(artifacts)
    what = ", ".join(artifacts.architectures) or artifacts.model_type
    if task not in HEADS:
        return
    head = HEADS[task]
    if artifacts.format is ArtifactFormat.ADAPTER:
        yield Problem(
            code="model.task-not-served",
            message=f"the folder holds an adapter, and {backend} merges those into models that generate text only",
            hint="Merge it into the model (peft: merge_and_unload), and serve that",
            path=artifacts.folder,
        )
    elif artifacts.architectures and made_for is not task:
        yield Problem(
            code="model.task-not-served",
            message=f"task is {asked}, and {what} has no head for it"
            + (f"; it {made_for.does}" if made_for is not None else ""),
            hint=f"Use a model whose class ends in {head.ending}, or take option.task out",
            path=artifacts.folder,
            fields=("task",),
        )
    elif _lacks_class(artifacts, head):
        yield Problem(
            code="model.architecture-not-served",
            message=f"transformers {library.library_version()} has no {head.ending} for model_type "
            f"'{artifacts.model_type}'",
            hint="A later transformers may have it: pip install -U transformers",
            path=artifacts.folder,
        )


def check_decoder(artifacts: ModelArtifacts, asked: str | None) -> Iterator[Problem]:
    """Say that a model with an encoder, or a task for such a one, is not served.

    Args:
        artifacts: the model.
        asked: the value of ``option.task``.
    """
    if (asked or "").lower() == TEXT_TO_TEXT:
        yield Problem(
            code="model.task-not-served",
            message=f"task is {asked}, and {WHY_NO_TEXT_TO_TEXT}",
            hint="No backend of LMI serves them; use a causal language model, with option.task=text-generation",
            path=artifacts.folder,
            fields=("task",),
        )
    elif artifacts.config.get("is_encoder_decoder") and task_of(artifacts, asked) is Task.GENERATE:
        what = ", ".join(artifacts.architectures) or artifacts.model_type
        yield Problem(
            code="model.task-not-served",
            message=f"{what} has an encoder and a decoder, and {WHY_NO_TEXT_TO_TEXT}",
            hint="No backend of LMI serves them; use a causal language model",
            path=artifacts.folder,
        )


def _lacks_class(artifacts: ModelArtifacts, head: Head) -> bool:
    own = artifacts.config.get("auto_map")
    if isinstance(own, dict) and head.auto_class in own:
        return False
    known = library.types_with(head.table)
    return bool(known) and bool(artifacts.model_type) and artifacts.model_type not in known
