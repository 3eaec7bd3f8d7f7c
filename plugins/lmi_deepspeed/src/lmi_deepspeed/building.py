# SPDX-License-Identifier: Apache-2.0
"""Shards ahead of time: the model is split as for a start, written, and not served."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lmi.api import ArtifactFormat, EngineLoadError, ModelArtifacts, Progress, Ranks
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_deepspeed.engine import load_model
from lmi_deepspeed.ranked import WRITTEN_BY_LMI


def build_shards(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, output_dir: str, progress: Progress
) -> ModelArtifacts:
    """Write this rank's part of a model into a folder; rank 0 writes what they are served with.

    Args:
        artifacts: the model.
        config: options; those that are for a start alone do not count.
        ranks: which part this is.
        output_dir: the folder.
        progress: told the stages.
    Raises:
        EngineLoadError: shards do not go with the options; or as a load does.
        OutOfMemoryError: as a load does.
    """
    if config.quantization is not None:
        raise EngineLoadError(
            "config.conflict",
            f"quantize={config.quantization} does not go with shards, which hold weights as they are",
            "Remove option.quantize, or serve the model without shards",
        )
    wanted = config.model_copy(update={"save_mp_checkpoint_path": output_dir})
    load_model(artifacts, wanted, ranks, progress)
    if ranks.rank == 0:
        Path(output_dir, "serving.properties").write_text(f"option.checkpoint={WRITTEN_BY_LMI}\n", "utf-8")
    return msgspec.structs.replace(artifacts, folder=output_dir, format=ArtifactFormat.RANKED_CHECKPOINT)
