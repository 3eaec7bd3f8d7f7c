# SPDX-License-Identifier: Apache-2.0
"""What a model takes on a machine, in the figures that ``lmi plan``, ``lmi check`` and a start all tell."""

from __future__ import annotations

import msgspec
import psutil

from lmi.api import (
    Accelerator,
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    ModelArtifacts,
    ModelShape,
    Target,
    shape_of,
)
from lmi.api.errors import counted
from lmi.planning.fit import Fit, fits_at
from lmi.planning.sizing import Sizing
from lmi.planning.units import shown_bytes
from lmi.planning.weights import DTYPE_BYTES, ServedWeights, served_weights, stored_bytes


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model before it is loaded.

    Args:
        shape: its sizes.
        weights: what they come to in memory.
        sizing: what the configuration says.
        info_name: of the backend.
        n_devices: of the machine.
        fit: at the degree of the configuration.
    """

    shape: ModelShape
    weights: ServedWeights
    sizing: Sizing
    info_name: str
    n_devices: int
    fit: Fit

    @property
    def is_memory_known(self) -> bool:
        """Whether it is known how much memory a device has."""
        return self.fit.memory_bytes > 0


def memory_of(target: Target, *, is_here: bool = True) -> int:
    """Memory of one device of a machine; on a CPU what the host has free. 0 where that is not known."""
    if target.accelerator is not Accelerator.CPU or target.device_memory_bytes:
        return target.device_memory_bytes
    return int(psutil.virtual_memory().available) if is_here else 0


def why_unknown(artifacts: ModelArtifacts) -> str:
    """Why nothing can be reckoned for a model; empty where it can."""
    if artifacts.format in (ArtifactFormat.NONE, ArtifactFormat.ADAPTER):
        return "it is an adapter, without the model it is for" if artifacts.format is ArtifactFormat.ADAPTER else (
            "there are no model files"
        )  # fmt: skip
    if not stored_bytes(artifacts):
        return "the size of its weights is not known"
    shape = shape_of(artifacts)
    if not (shape.n_layers and shape.hidden):
        return "its config.json does not tell its layers and their sizes"
    return ""


def estimate(
    artifacts: ModelArtifacts,
    config: BackendConfig | None,
    info: BackendInfo,
    target: Target,
    *,
    degree: int = 0,
    is_here: bool = True,
    sizing: Sizing | None = None,
) -> Estimate:
    """Reckon what a model takes; ``why_unknown`` must have nothing against it.

    Args:
        artifacts: the model.
        config: options of the backend; None takes what its description tells.
        info: the backend.
        target: the machine.
        degree: devices of a copy; 0 takes that of the configuration.
        is_here: whether the machine is this one, whose free memory counts.
        sizing: what the configuration says, where it was read before.
    """
    shape = shape_of(artifacts)
    sizing = sizing or Sizing.of(artifacts, config, info, target)
    weights = served_weights(artifacts, dtype=sizing.dtype, quantize=sizing.quantize)
    if target.accelerator is Accelerator.CPU:
        weights = _with_copied_head(weights, artifacts, info, shape)
    fit = fits_at(
        degree or sizing.degree, weights=weights, shape=shape, sizing=sizing, overhead=info.memory,
        accelerator=target.accelerator, memory_bytes=memory_of(target, is_here=is_here),
    )  # fmt: skip
    return Estimate(
        shape=shape, weights=weights, sizing=sizing, info_name=info.name, n_devices=max(1, target.n_devices), fit=fit
    )


def memory_line(
    artifacts: ModelArtifacts, config: BackendConfig, info: BackendInfo, target: Target, *, is_here: bool = True
) -> str:
    """The figures of a model in one line; "" where its sizes are not known. Arguments as ``estimate`` has them."""
    if why_unknown(artifacts):
        return ""
    return summary_line(estimate(artifacts, config, info, target, is_here=is_here))


def summary_line(found: Estimate) -> str:
    """The figures in one line: ``weights 13.5 GB (bf16), cache 0.524 MB a token: 38 sequences of 4096 tokens``."""
    fit, weights = found.fit, found.weights
    kind = f"{weights.dtype}, {weights.quantization}" if weights.quantization else weights.dtype
    each = " on each of %d devices" % fit.degree if fit.degree > 1 else ""  # noqa: UP031 - reads better than a join
    parts = [
        f"weights {shown_bytes(fit.weight_bytes)} ({kind}){each}",
        f"cache {shown_bytes(fit.cache.token_bytes)} a token",
        f"activations {shown_bytes(fit.activation_bytes)}",
        f"context and buffers {shown_bytes(fit.overhead_bytes)}",
    ]
    line = ", ".join(parts)
    if not found.is_memory_known:
        return line
    room = f"{counted(fit.n_sequences, 'sequence')} of {fit.max_model_len} tokens"
    if not fit.n_sequences:
        room = f"one sequence of {fit.most_tokens} tokens" if fit.holds_weights else fit.refusal or "does not fit"
    return f"{line}, of {shown_bytes(fit.memory_bytes)}: {room}"


def _with_copied_head(
    weights: ServedWeights, artifacts: ModelArtifacts, info: BackendInfo, shape: ModelShape
) -> ServedWeights:
    if not artifacts.config.get("tie_word_embeddings") or artifacts.model_type not in info.memory.copied_heads:
        return weights
    copied = round(shape.vocab * shape.hidden * DTYPE_BYTES.get(weights.dtype, 2.0))
    return msgspec.structs.replace(weights, n_bytes=weights.n_bytes + copied, n_tables=2, copied_bytes=copied)
