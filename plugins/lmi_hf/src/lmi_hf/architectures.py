# SPDX-License-Identifier: Apache-2.0
"""Whether transformers has code for a model, and whether that code continues a text."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem
from lmi_hf import library

_OTHER_HEADS = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForMultipleChoice",
    "ForImageClassification",
)  # fmt: skip
_WITH_HEAD = ("LMHeadModel", "ChatModel")


def other_heads(artifacts: ModelArtifacts) -> list[str]:
    """Classes of a model that has no head for the next token: one for labels, or none, as embedding models have."""
    if _brings(artifacts.config.get("auto_map"), "AutoModelForCausalLM"):
        return []
    names = artifacts.architectures
    return [name for name in names if name.endswith(_OTHER_HEADS) or _is_headless(name)]


def check_task(artifacts: ModelArtifacts, backend: str) -> Iterator[Problem]:
    """Say that a model does not continue a text with a decoder alone.

    Args:
        artifacts: the model.
        backend: name of the backend.
    """
    model_type = artifacts.model_type
    other = other_heads(artifacts)
    known, causal = library.model_types(), library.causal_types()
    if other:
        yield other_task(artifacts, ", ".join(other), backend)
    elif (
        causal
        and model_type in known - causal
        and not _brings(artifacts.config.get("auto_map"), "AutoModelForCausalLM")
    ):
        yield other_task(artifacts, f"model_type '{model_type}'", backend)


def check_code(artifacts: ModelArtifacts, *, trust_remote_code: bool) -> Iterator[Problem]:
    """Say that a model runs Python files of its own and may not, or that nothing has code for it.

    Args:
        artifacts: the model.
        trust_remote_code: whether it may.
    """
    model_type, auto_map = artifacts.model_type, artifacts.config.get("auto_map")
    known = library.model_types()
    is_unknown = bool(known) and model_type not in known
    if auto_map and not trust_remote_code and is_unknown:
        yield Problem(
            code="model.remote-code",
            message=f"model_type '{model_type}' runs Python files that come with the model",
            hint="Read them, then set option.trust_remote_code=true",
            path=artifacts.folder,
            fields=("trust_remote_code",),
        )
    elif model_type and is_unknown and not auto_map and library.knows_engine():
        near = difflib.get_close_matches(model_type, known, n=1)
        question = f"Is it '{near[0]}'? " if near else ""
        yield Problem(
            code="model.architecture-not-served",
            message=f"transformers {library.library_version()} has no code for model_type '{model_type}'",
            hint=f"{question}A later transformers may have it: pip install -U transformers",
            path=artifacts.folder,
        )


def other_task(artifacts: ModelArtifacts, what: str, backend: str) -> Problem:
    """The problem of a model that does something else than continue a text."""
    return Problem(
        code="model.task-not-served",
        message=f"{what} does not continue a text; {backend} serves text-generation with decoder-only models",
        hint="Use a causal language model",
        path=artifacts.folder,
    )


def _is_headless(name: str) -> bool:
    return name.endswith("Model") and not name.endswith(_WITH_HEAD)


def _brings(auto_map: object, name: str) -> bool:
    return isinstance(auto_map, dict) and name in auto_map
