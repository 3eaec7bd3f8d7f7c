# SPDX-License-Identifier: Apache-2.0
"""Which of a model's files are needed to serve it, known before one of them is fetched."""

from __future__ import annotations

import re

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.artifacts.weights import PICKLES, SAFETENSORS

_COMPILED = (
    ArtifactFormat.TRITON_REPOSITORY, ArtifactFormat.ENGINES, ArtifactFormat.NEURON, ArtifactFormat.NEURON_SPLIT,
)  # fmt: skip
_ADAPTERS = "adapters/"
_ADAPTER = "adapter_model."

_FOR_READERS = re.compile(r".*\.(md|rst|png|jpe?g|gif|svg|webp|bmp|mp4|mov|mp3|wav|pdf|ipynb|html)", re.IGNORECASE)
_OF_TRAINING = re.compile(
    r"(.*/)?(optimizer[^/]*|scheduler[^/]*|random_states[^/]*|rng_state[^/]*|scaler\.pt|training_args\.bin"
    r"|trainer_state\.json|events\.out\.tfevents[^/]*|[^/]*_optim_states\.pt)"
    r"|(.*/)?(checkpoint-\d+|runs|wandb|logs|global_step\d+)/.*"
)
_OF_OTHER_PROGRAMS = re.compile(
    r"(.*/)?([^/]*\.(gguf|ggml|onnx|onnx_data|h5|msgpack|tflite|mlmodel|nemo|npz|ot|ckpt\.(index|meta|data-[^/]*))"
    r"|tf_model[^/]*|flax_model[^/]*|saved_model\.pb)"
    r"|(.*/)?(onnx|original|coreml|openvino|gguf|metal|[^/]*\.mlpackage)/.*"
)
_INDEX_OF_PICKLES = re.compile(r".*\.bin\.index\.json")


def wanted_files(artifacts: ModelArtifacts) -> tuple[str, ...]:
    """Names of the files that serving needs; their sizes are in ``artifacts.files``.

    Left out are pickled weights where safetensors are there, copies of the weights for other programs, what training
    left behind, and what is there for people.

    Args:
        artifacts: what ``detect`` said.
    """
    sizes, weights = artifacts.files, artifacts.weight_files
    if not any(name.endswith(SAFETENSORS) for name in weights):  # names alone do not tell which files ranks read
        has_copies = any(name.startswith("pytorch_model") for name in sizes)
        weights = tuple(name for name in sizes if name.endswith(PICKLES) and not _is_copy(name, has_copies))
    chosen = frozenset(weights)
    beside = frozenset(name.rpartition("/")[0] for name in sizes if name.endswith(SAFETENSORS))
    return tuple(name for name in sorted(sizes) if _is_wanted(name, beside, artifacts.format, chosen))


def _is_copy(name: str, has_copies: bool) -> bool:
    """Whether pickled weights are there as the model's authors wrote them, beside those for transformers."""
    return has_copies and name.startswith("consolidated")


def _is_wanted(name: str, folders: frozenset[str], layout: ArtifactFormat, weights: frozenset[str]) -> bool:
    """Whether a file is needed; ``folders`` are those with safetensors in them."""
    if _FOR_READERS.fullmatch(name) or _OF_TRAINING.fullmatch(name):
        return False
    if name in weights or layout in _COMPILED:
        return True
    if _OF_OTHER_PROGRAMS.fullmatch(name):
        return False
    folder, _, last = name.rpartition("/")
    is_beside = folder in folders
    if last.startswith(_ADAPTER) or name.startswith(_ADAPTERS):
        return not (is_beside and name.endswith(PICKLES))
    if name.endswith((SAFETENSORS, *PICKLES)):
        return False  # a copy that is not loaded
    return not (_INDEX_OF_PICKLES.fullmatch(name) and is_beside)
