# SPDX-License-Identifier: Apache-2.0
"""Load one rank's part of a model that labels, fills masks or answers questions."""

from __future__ import annotations

from typing import Any

from lmi.api import Answerer, ModelArtifacts, Progress, Ranks, Task
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_deepspeed.engine import load_model, longest_input
from lmi_hf.tasks.answerers import answerer_of
from lmi_hf.tasks.heads import load_head


def load_answerer(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, task: Task, n_threads: int, progress: Progress
) -> Answerer:
    """Load this rank's part of the weights and return what answers with it; all ranks must compute alike.

    Args:
        artifacts: the model.
        config: options.
        ranks: which part this is.
        task: what it does, other than generating.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: DeepSpeed or transformers refused the model; the cause is kept.
        OutOfMemoryError: it does not fit.
    """

    def whole(artifacts: ModelArtifacts, arguments: dict[str, Any], progress: Progress) -> Any:
        return load_head(artifacts, arguments, task, progress)

    return answerer_of(
        artifacts,
        task,
        lambda: load_model(artifacts, config, ranks, progress, whole),
        most_tokens=longest_input(artifacts, config),
        trust_remote_code=config.trust_remote_code,
        n_threads=n_threads,
        progress=progress,
    )
