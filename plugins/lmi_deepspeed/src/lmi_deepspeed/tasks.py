# SPDX-License-Identifier: Apache-2.0
"""What speaks against other tasks than generation: heads that a model lacks, and what DeepSpeed does not split."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem, degree_problems, shape_of, task_of
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_hf.tasks.checks import HEADS, check_decoder, check_head

SPLIT_TYPES = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "llama", "megatron-bert", "qwen2",
    "roberta", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
"""Model types whose attention and feed-forward layers DeepSpeed's AutoTP splits, with the numbers of a whole model.

Measured with DeepSpeed 0.19.8 and transformers 5.19 on two ranks, all four heads. It splits convbert, modernbert and
mpnet wrongly, which fail; a rank of longformer hangs.
"""

_FOR_STEPPERS = ("checkpoint", "save_mp_checkpoint_path")


def check_tasks(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    """Judge ``option.task``, or what the model was made for.

    Args:
        artifacts: the model.
        config: options.
    """
    yield from check_decoder(artifacts, config.task)
    yield from check_head(artifacts, config.task, "deepspeed")
    task = task_of(artifacts, config.task)
    if task not in HEADS:
        return
    yield from _check_split(artifacts, config.tensor_parallel_degree)
    for name in _FOR_STEPPERS:
        if config.is_changed(name):
            yield Problem(
                code="config.conflict",
                message=f"{name} is {getattr(config, name)}, and the model {task.does}; shards are of models that "
                "generate text",
                hint=f"Remove option.{name}",
                fields=(name,),
            )
    if config.quantization == "smoothquant":
        yield Problem(
            code="config.conflict",
            message=f"quantize is smoothquant, and the model {task.does}; it is calibrated with models that generate "
            "text",
            hint="Use option.quantize=dynamic_int8, or remove it",
            fields=("quantize",),
        )


def _check_split(artifacts: ModelArtifacts, degree: int) -> Iterator[Problem]:
    if degree == 1:
        return
    if artifacts.model_type and artifacts.model_type not in SPLIT_TYPES:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree}, and {artifacts.model_type} is not among the models that "
            f"DeepSpeed is known to split for this task: {', '.join(SPLIT_TYPES)}",
            hint="Set option.tensor_parallel_degree=1",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )
        return
    shape = shape_of(artifacts)
    sizes = {
        "attention heads": shape.n_heads,
        "key-value heads": shape.n_kv_heads,
        "feed-forward numbers": shape.intermediate,
    }
    yield from degree_problems(artifacts, degree, sizes)
