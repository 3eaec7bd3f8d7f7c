# SPDX-License-Identifier: Apache-2.0
"""Load one rank's part of a model: split by DeepSpeed's AutoTP, stepped as lmi_hf steps models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lmi.api import EngineLoadError, ModelArtifacts, Progress, Ranks, Stepper, n_cores
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_hf.engine import Wishes, choose_dtype, load_pretrained, read_config, stepper_of

log = logging.getLogger(__name__)


def load_stepper(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, n_threads: int, progress: Progress
) -> Stepper:
    """Load this rank's part of the weights and return what steps it; all ranks must be stepped alike.

    Args:
        artifacts: the model; for an adapter, its base model is loaded and the adapter merged into it.
        config: options.
        ranks: which part this is.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: DeepSpeed or transformers refused the model; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    _refuse_what_is_not_done(config)
    wishes = Wishes(max_slots=config.max_rolling_batch_size, max_context_tokens=config.max_tokens)
    return stepper_of(artifacts, lambda: load_model(artifacts, config, ranks, progress), wishes, n_threads, progress)


def _refuse_what_is_not_done(config: DeepSpeedConfig) -> None:
    names = ["checkpoint", "enable_cuda_graph", "save_mp_checkpoint_path"]
    found = [f"{name}={getattr(config, name)}" for name in names if config.is_changed(name)]
    found += [f"quantize={config.quantization}"] if config.quantization is not None else []
    found += [f"task={config.task}"] if config.task not in (None, "text-generation") else []
    if found:
        raise EngineLoadError(
            "engine.not-implemented",
            f"deepspeed does not do this yet: {', '.join(found)}",
            "Take it out; option.rolling_batch=hf has quantize=bitsandbytes8, and vllm has the other tasks",
        )


def load_model(artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, progress: Progress) -> Any:
    """Return this rank's part of the model, on its device."""
    import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import torch

    device = f"cuda:{ranks.local_rank}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(ranks.local_rank)
    if ranks.size > 1:
        progress("meet the other ranks")
        deepspeed.init_distributed(dist_backend="gloo" if device == "cpu" else "nccl", auto_mpi_discovery=False)
        _choose_reduction(ranks)
    model_config = read_config(artifacts, progress, trust_remote_code=config.trust_remote_code)
    dtype = choose_dtype(config.dtype, model_config)
    arguments = {
        "config": model_config,
        "dtype": dtype,
        "low_cpu_mem_usage": config.low_cpu_mem_usage,
        "trust_remote_code": config.trust_remote_code,
    }
    model = load_pretrained(artifacts, arguments, progress, is_quantized=False)
    progress("split over ranks" if ranks.size > 1 else "hand to deepspeed")
    engine = deepspeed.init_inference(model, config=inference_config(artifacts, config, ranks, dtype))
    return engine.module.to(device)


def inference_config(artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, dtype: Any) -> dict[str, Any]:
    """DeepSpeed's inference configuration: the one of ``deepspeed_config_path``, or the one that the options make.

    Kernels are never injected: those that DeepSpeed has keep one cache for a whole batch whose sequences are at the
    same place, and requests here come and go one by one.
    """
    made: dict[str, Any] = {"dtype": dtype, "replace_with_kernel_inject": False}
    if config.deepspeed_config_path is not None:
        made |= json.loads(Path(artifacts.folder, config.deepspeed_config_path).read_text("utf-8"))
    return {**made, "tensor_parallel": {"tp_size": ranks.size}}


def _choose_reduction(ranks: Ranks) -> None:
    """Use DeepSpeed's sums over shared memory where each rank has a core: they wait busily."""
    from deepspeed.comm import comm  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if ranks.local_size > n_cores() or ranks.local_size < ranks.size:
        comm.cdb.shm_vector_kernel_level = 0
        log.info("sums over ranks go through gloo: %d ranks share %d cores", ranks.local_size, n_cores())
