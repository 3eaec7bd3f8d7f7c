# SPDX-License-Identifier: Apache-2.0
"""Which of the library's two ways runs a model: weights as they are, or engines that are built from them."""

from __future__ import annotations

from dataclasses import dataclass

from lmi.api import ModelArtifacts
from lmi_trtllm.built import is_built
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import said
from lmi_trtllm.families import ARCHITECTURES, PYTORCH_ARCHITECTURES
from lmi_trtllm.quantization import method_of

PYTORCH, TENSORRT = "pytorch", "tensorrt"

LAST_WITH_ENGINES = "1.2"
"""The last line of releases that is known to have both ways."""

_COMPRESSING = ("smoothquant", "awq", "fp8")
CHOOSING = ("multi_block_mode", "max_draft_len")
"""Options that built engines alone have, so that they choose the way."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a model is run.

    Args:
        name: PYTORCH or TENSORRT.
        reason: what asks for engines; empty for PYTORCH.
        fields: the options that do.
    """

    name: str = PYTORCH
    reason: str = ""
    fields: tuple[str, ...] = ()


def way_of(artifacts: ModelArtifacts, config: TrtllmConfig) -> Way:
    """The way a model is run: what ``option.backend`` says, else what its files and the other options need."""
    needed = needed_engines(artifacts, config)
    if config.backend == PYTORCH:
        return Way()
    if config.backend == TENSORRT and not needed.reason:
        return Way(name=TENSORRT, reason="backend=tensorrt builds engines", fields=("backend",))
    return needed


def needed_engines(artifacts: ModelArtifacts, config: TrtllmConfig) -> Way:
    """The way a model has to be run whatever ``option.backend`` says; PYTORCH where nothing needs engines."""
    if is_built(artifacts):
        return Way(name=TENSORRT, reason="the model is built engines")
    if config.quantize in _COMPRESSING and not method_of(artifacts):
        reason = f"{said(config, 'quantize')} is applied while engines are built"
        return Way(name=TENSORRT, reason=reason, fields=("quantize",))
    for name in CHOOSING:
        if getattr(config, name):
            return Way(name=TENSORRT, reason=f"{said(config, name)} is for built engines alone", fields=(name,))
    served = [name for name in artifacts.architectures if name in ARCHITECTURES]
    if served and not PYTORCH_ARCHITECTURES.intersection(served):
        return Way(name=TENSORRT, reason=f"{served[0]} is served by built engines alone")
    return Way()
