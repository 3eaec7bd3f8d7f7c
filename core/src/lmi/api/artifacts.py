# SPDX-License-Identifier: Apache-2.0
"""What was found in a model folder, without reading a weight."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from lmi.api.backend import Accelerator

MANIFEST = "lmi-manifest.json"
"""The document that ``lmi compile`` puts into a build: ``device_name`` and ``compute_capability`` of the machine that
built it, ``versions`` of the engine's libraries there, ``options``, ``files``."""


class ArtifactFormat(str, Enum):
    """How a model is laid out on disk.

    NONE: no files at all (backends that need no model).
    PRETRAINED: ``config.json``, weights and tokenizer as ``save_pretrained`` writes them.
    ADAPTER: ``adapter_config.json`` that points to a base model.
    MISTRAL: ``params.json`` and ``consolidated*.safetensors``, without a ``config.json``.
    RANKED_CHECKPOINT: a json file that lists one weight file or more for each rank, beside ``config.json``.
    TRITON_REPOSITORY: a folder with ``config.pbtxt``, ``config.json`` and tokenizer, and ``1/`` with built engines; or
        the folder that holds it.
    ENGINES: ``config.json`` with ``build_config``, and ``rank*.engine``.
    NEURON: compiled graphs (``*.neff``) beside a ``config.json`` with the section ``neuron``, or beside
        ``neuron_config.json``.
    NEURON_SPLIT: like PRETRAINED, with a folder of split weights called ``pytorch_model.bin``.
    """

    NONE = "none"
    PRETRAINED = "pretrained"
    ADAPTER = "adapter"
    MISTRAL = "mistral"
    RANKED_CHECKPOINT = "ranked-checkpoint"
    TRITON_REPOSITORY = "triton-repository"
    ENGINES = "engines"
    NEURON = "neuron"
    NEURON_SPLIT = "neuron-split"


class WeightSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is of the weights, as the headers of the files tell.

    Args:
        n_bytes: of the tensors; of PyTorch files, whose headers tell nothing, of the files.
        n_parameters: numbers stored; a packed tensor of a compressed checkpoint counts its words. 0 where unknown.
        bytes_by_dtype: dtype as safetensors spells it (``BF16``) -> bytes; empty for PyTorch files.
        n_linear_parameters: of those, numbers in matrices of the layers: what quantization compresses, so neither
            embeddings, nor the output head, nor norms and biases.
        n_linear_bytes: bytes of the same.
        n_tensors: tensors there are.
    """

    n_bytes: int = 0
    n_parameters: int = 0
    bytes_by_dtype: dict[str, int] = {}
    n_linear_parameters: int = 0
    n_linear_bytes: int = 0
    n_tensors: int = 0


class ModelArtifacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's folder, or a place elsewhere, holds.

    A model that is elsewhere is described without being fetched: ``files`` and ``documents`` say what checks need, so
    a check looks there, not at the disk.

    Args:
        folder: absolute path of the model folder, or the URL of a place elsewhere; empty for ArtifactFormat.NONE.
        format: how it is laid out.
        inner: folder inside ``folder``, relative to it, that holds configuration and tokenizer; usually empty.
        config: ``config.json`` as it stands.
        architectures: class names from ``config.json``.
        model_type: from ``config.json``.
        weight_files: names inside the folder; safetensors alone where both kinds are there.
        files: every file -> its size in bytes. Names are relative to ``folder``, with ``/``; hidden ones are left out.
        documents: small json files -> content, whatever it is; ``config.pbtxt`` and files called ``VERSION`` -> text.
            A json file that cannot be read is not among them.
        weights: how much there is of the weights.
        eos_token_ids: from ``generation_config.json``, else ``config.json``.
        max_context_tokens: from ``config.json``; 0 where it does not say.
        further: other models that options of this one name (``option(..., is_model=True)``), by the option's field.
            Those that the engine's own library fetches from the hub are not among them. Also folders that are no
            models (``is_folder=True``) and were in an object store, with ArtifactFormat.NONE.
    """

    folder: str = ""
    format: ArtifactFormat = ArtifactFormat.NONE
    inner: str = ""
    config: dict[str, Any] = {}
    architectures: tuple[str, ...] = ()
    model_type: str = ""
    weight_files: tuple[str, ...] = ()
    files: dict[str, int] = {}
    documents: dict[str, Any] = {}
    weights: WeightSummary = WeightSummary()
    eos_token_ids: tuple[int, ...] = ()
    max_context_tokens: int = 0
    further: dict[str, ModelArtifacts] = {}

    @property
    def path(self) -> Path:
        """The folder, for a model that is on this machine."""
        return Path(self.folder)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the files are not on this machine."""
        return "://" in self.folder

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of this name with a file in it; ``name`` is relative to ``folder``."""
        start = name.strip("/") + "/"
        return any(each.startswith(start) for each in self.files)

    def document(self, name: str) -> dict[str, Any]:
        """The object in a small json file; an empty one where there is no such file or no object in it."""
        content = self.documents.get(name)
        return content if isinstance(content, dict) else {}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The machine a model is meant for.

    Args:
        accelerator: kind of device.
        n_devices: devices there are.
        device_memory_bytes: memory of one device, the smallest if they differ; 0 where unknown.
        devices: what names each device in the variable that shows it (CUDA_VISIBLE_DEVICES,
            NEURON_RT_VISIBLE_CORES); empty: the numbers from 0.
        device_name: what the first one is sold as; empty where unknown.
        compute_capability: of the first one, ``9.0``; empty where unknown, and for what is not CUDA.
        instance: the type of machine, as ``ml.g5.12xlarge``; empty for this machine.
        versions: what the container has, where that is known: distribution of an engine or a compiler -> version.
    """

    accelerator: Accelerator = Accelerator.CPU
    n_devices: int = 1
    device_memory_bytes: int = 0
    devices: tuple[str, ...] = ()
    device_name: str = ""
    compute_capability: str = ""
    instance: str = ""
    versions: dict[str, str] = {}
