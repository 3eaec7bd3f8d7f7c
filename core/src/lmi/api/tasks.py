# SPDX-License-Identifier: Apache-2.0
"""How people write what a model does, and what its files say of it."""

from __future__ import annotations

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.backend import Task

_NAMES = {
    Task.GENERATE: ("generate", "text-generation", "text2text-generation", "conversational"),
    Task.EMBED: ("embed", "text-embedding", "feature-extraction", "sentence-similarity"),
    Task.CLASSIFY: ("classify", "text-classification", "sentiment-analysis"),
    Task.TOKEN_CLASSIFICATION: ("token-classification", "ner"),
    Task.FILL_MASK: ("fill-mask",),
    Task.QUESTION_ANSWERING: ("question-answering",),
}

TASK_NAMES: dict[str, Task] = {name: task for task, names in _NAMES.items() for name in names}
"""How people write a task (``option.task``, ``HF_TASK``) -> the task. Source: LMI and the pipelines of transformers."""

_GENERATING = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ChatModel", "ChatGLMModel")
_EMBEDDING = ("ForTextEncoding", "Model")
_HEADS = {
    Task.CLASSIFY: ("ForSequenceClassification",),
    Task.TOKEN_CLASSIFICATION: ("ForTokenClassification",),
    Task.FILL_MASK: ("ForMaskedLM", "BertForPreTraining"),
    Task.QUESTION_ANSWERING: ("ForQuestionAnswering",),
}
_WHOLE = frozenset(task for task in Task if task.takes_whole_requests)
_NO_HEAD = "AutoModel"
"""What code of a model's own says of every class it has."""
_REWARDING = ("RewardModel",)
_SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json")


def task_named(name: str | None) -> Task | None:
    """The task that a name stands for; None for ``auto``, for nothing, and for a name that is no task of LMI's."""
    return TASK_NAMES.get(name.lower()) if name else None


def task_of_model(artifacts: ModelArtifacts) -> Task | None:
    """What a model was made for, as its files say; None where they do not, or where it is something else.

    A folder of sentence-transformers makes vectors, whatever its class. Otherwise the endings of the classes in
    ``config.json`` count, those that code of the model's own (``auto_map``) can be loaded as first.
    """
    if artifacts.format is ArtifactFormat.NONE:
        return None
    start = f"{artifacts.inner}/" if artifacts.inner else ""
    if any(start + name in artifacts.files for name in _SENTENCE_FILES):
        return Task.EMBED
    own_code = artifacts.config.get("auto_map")
    for name in [*(map(str, own_code) if isinstance(own_code, dict) else ()), *artifacts.architectures]:
        if name == _NO_HEAD:
            continue
        for task, endings in (
            (Task.GENERATE, _GENERATING),
            (None, _REWARDING),
            *_HEADS.items(),
            (Task.EMBED, _EMBEDDING),
        ):
            # Own code lists every head it has: the class in architectures says whose weights are there.
            if name.endswith(endings) and not (task in _WHOLE and name.startswith(_NO_HEAD)):
                return task
    return None


def task_of(artifacts: ModelArtifacts, asked: str | None = None) -> Task:
    """What a model is served for: what is asked, else what it was made for, else generation.

    Args:
        artifacts: the model.
        asked: the value of ``option.task``, in any spelling.
    """
    return task_named(asked) or task_of_model(artifacts) or Task.GENERATE
