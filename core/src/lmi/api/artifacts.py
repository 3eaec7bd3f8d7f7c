# SPDX-License-Identifier: Apache-2.0
"""What was found in a model folder, without reading a weight."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from lmi.api.backend import Accelerator


class ArtifactFormat(str, Enum):
    """How a model is laid out on disk.

    NONE: no files at all (backends that need no model). PRETRAINED: ``config.json``, weights and tokenizer as
    ``save_pretrained`` writes them. ADAPTER: ``adapter_config.json`` that points to a base model.
    """

    NONE = "none"
    PRETRAINED = "pretrained"
    ADAPTER = "adapter"


class ModelArtifacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk.

    Args:
        folder: absolute path of the model folder; empty for ArtifactFormat.NONE.
        format: how it is laid out.
        config: ``config.json`` as it stands.
        architectures: class names from ``config.json``.
        model_type: from ``config.json``.
        weight_files: names inside the folder; safetensors alone where both kinds are there.
        eos_token_ids: from ``generation_config.json``, else ``config.json``.
        max_context_tokens: from ``config.json``; 0 where it does not say.
    """

    folder: str = ""
    format: ArtifactFormat = ArtifactFormat.NONE
    config: dict[str, Any] = {}
    architectures: tuple[str, ...] = ()
    model_type: str = ""
    weight_files: tuple[str, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    max_context_tokens: int = 0

    @property
    def path(self) -> Path:
        return Path(self.folder)


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
    """

    accelerator: Accelerator = Accelerator.CPU
    n_devices: int = 1
    device_memory_bytes: int = 0
    devices: tuple[str, ...] = ()
    device_name: str = ""
    compute_capability: str = ""
