# SPDX-License-Identifier: Apache-2.0
"""Weights that are somewhere below the place, or under a name of another layout: what is there instead."""

from __future__ import annotations

from collections.abc import Iterable

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import Problem
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.weights import SAFETENSORS, index_in_use

_DESCRIPTIONS = ("config.json", "adapter_config.json", "params.json")
_NOT_MODELS = ("adapters", "original")
"""Folders beside a model that hold weights and are no model of their own."""
_WEIGHTS = ("model", "pytorch_model", "consolidated", "adapter_model")
_MAX_NAMED = 5


def misplaced_problem(artifacts: ModelArtifacts, files: ModelFiles) -> Problem | None:
    """What to say where a place has no weights and the model is seen all the same.

    Args:
        artifacts: what was detected.
        files: its files; none is read.
    Returns:
        ``config.missing`` where the place only holds folders with models, ``weights.missing`` where it is itself a
        model without weights; None where nothing of that is so.
    """
    if artifacts.format is not ArtifactFormat.PRETRAINED or artifacts.weight_files or index_in_use(files):
        return None
    with_weights = _folders(name for name in files.sizes if _is_weight(name))
    described = _folders(name for name in files.sizes if name.rpartition("/")[2] in _DESCRIPTIONS)
    models = [folder for folder in with_weights if folder in described]
    if models and "config.json" not in files.sizes:
        is_one = len(models) == 1
        message = f"no config.json here; {'there is a model' if is_one else 'there are models'} in {_named(models)}"
        hint = f"Name that folder: {files.at(models[0])}" if is_one else f"Name one of them, as {files.at(models[0])}"
        return Problem(code="config.missing", message=message, hint=hint, path=files.place)
    if with_weights:
        message = f"no weights here; {_named(with_weights)} {'has' if len(with_weights) == 1 else 'have'} some"
        hint = f"Name that folder, {files.at(with_weights[0])}, or copy the weights out of it"
        return Problem(code="weights.missing", message=message, hint=hint, path=files.place)
    return _consolidated(files)


def _consolidated(files: ModelFiles) -> Problem | None:
    """Weights of Mistral's own layout beside a configuration of another one."""
    names = sorted(n for n in files.sizes if "/" not in n and n.startswith("consolidated") and n.endswith(SAFETENSORS))
    if not names or "config.json" not in files.sizes:
        return None
    message = f"{_named(names, '')}: weights of Mistral's own layout, which config.json does not describe"
    hint = "Copy model.safetensors from where the model came from, or take config.json out and keep params.json"
    return Problem(code="weights.missing", message=message, hint=hint, path=files.at(names[0]))


def _is_weight(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if not folder or folder.startswith(_NOT_MODELS):
        return False
    return last.endswith(SAFETENSORS) or (last.endswith(".bin") and last.startswith(_WEIGHTS))


def _folders(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition("/")[0] for name in names} - {""})


def _named(names: list[str], end: str = "/") -> str:
    """The first names, each with an end, and how many more there are."""
    shown = ", ".join(name[:120] + end for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"
