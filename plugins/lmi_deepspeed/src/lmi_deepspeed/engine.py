# SPDX-License-Identifier: Apache-2.0
"""Load one rank's part of a model: split by DeepSpeed's AutoTP, stepped as lmi_hf steps models."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi.api import ModelArtifacts, Progress, Ranks, Stepper, n_cores
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_hf.engine import (
    Whole,
    Wishes,
    choose_dtype,
    has_bf16,
    load_pretrained,
    read_config,
    source_of,
    stepper_of,
)

if TYPE_CHECKING:
    from lmi_deepspeed.shards import ShardList

log = logging.getLogger(__name__)


def _whole(artifacts: ModelArtifacts, arguments: dict[str, Any], progress: Progress) -> Any:
    return load_pretrained(artifacts, arguments, progress, is_quantized=False)


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
    wishes = Wishes(
        max_slots=config.max_rolling_batch_size,
        max_context_tokens=longest_input(artifacts, config),
        rounds_activations=config.quantization is not None,
    )
    return stepper_of(artifacts, lambda: load_model(artifacts, config, ranks, progress), wishes, n_threads, progress)


def longest_input(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> int:
    """Tokens of the longest sequence that options allow."""
    return int(given_settings(artifacts, config).get("max_out_tokens", config.max_tokens))


def load_model(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, ranks: Ranks, progress: Progress, whole: Whole = _whole
) -> Any:
    """Return this rank's part of the model, on its device.

    Args:
        artifacts, config, ranks, progress: as ``load_stepper`` has them.
        whole: loads the model that is to be split, from the arguments of transformers' ``from_pretrained``.
    """
    import torch

    from lmi_deepspeed.shards import ShardList, empty, fill, save

    device = f"cuda:{ranks.local_rank}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(ranks.local_rank)
    if ranks.size > 1:
        _meet(ranks, progress)
    given = given_settings(artifacts, config)
    listed = ShardList(Path(artifacts.folder, given["checkpoint"])) if given.get("checkpoint") else None
    model_config = read_config(artifacts, progress, trust_remote_code=config.trust_remote_code)
    dtype = _dtype(config, model_config, listed)
    arguments = {"config": model_config, "dtype": dtype, "trust_remote_code": config.trust_remote_code}
    if listed is None:
        model = whole(artifacts, arguments, progress)
    else:
        progress("load weights")
        weights = listed.weights(ranks, dtype)
        model = empty(arguments)
        if not listed.is_split:
            fill(model, weights, listed.path)
    progress("split over ranks" if ranks.size > 1 else "hand to deepspeed")
    module = _split(model, given, ranks, dtype)
    if listed is not None and listed.is_split:
        fill(module, weights, listed.path)
    if given.get("save_mp_checkpoint_path"):
        progress("write shards")
        save(module, given["save_mp_checkpoint_path"], artifacts, ranks)
    module = module.to(device)
    if config.quantization is not None:
        from lmi_deepspeed.int8 import quantize

        quantize(module, config.quantization, config.smoothquant_alpha, source_of(artifacts), progress)
    return module


def given_settings(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> dict[str, Any]:
    """What is asked of DeepSpeed, by its own names: the json of ``deepspeed_config_path``, or what the options say."""
    if config.deepspeed_config_path is not None:
        given: dict[str, Any] = json.loads(Path(artifacts.folder, config.deepspeed_config_path).read_text("utf-8"))
        return given
    return {
        "checkpoint": config.checkpoint,
        "save_mp_checkpoint_path": config.save_mp_checkpoint_path,
        "max_out_tokens": config.max_tokens,
    }


def inference_config(given: dict[str, Any], ranks: Ranks, dtype: Any) -> dict[str, Any]:
    """DeepSpeed's inference configuration.

    Kernels are never injected: those that DeepSpeed has keep one cache for a whole batch whose sequences are at the
    same place, and requests here come and go one by one. Shards are read and written here, since DeepSpeed itself
    reads them with its own kernels only.

    Args:
        given: of ``given_settings``.
        ranks: over which the model is split.
        dtype: the torch type of its weights.
    """
    left = {name: value for name, value in given.items() if name not in ("checkpoint", "save_mp_checkpoint_path")}
    return {"dtype": dtype, "replace_with_kernel_inject": False, **left, "tensor_parallel": {"tp_size": ranks.size}}


def _split(model: Any, given: dict[str, Any], ranks: Ranks, dtype: Any) -> Any:
    """This rank's part of a model."""
    import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]

    # DeepSpeed gives a model without weights new memory, and forgets what its buffers hold.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    module = deepspeed.init_inference(model, config=inference_config(given, ranks, dtype)).module
    for name, buffer in module.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    return module


def _dtype(config: DeepSpeedConfig, model_config: Any, listed: ShardList | None) -> Any:
    """The torch type that the weights get."""
    import torch

    if config.dtype == "auto" and listed is not None and listed.dtype is not None:
        return listed.dtype
    found = choose_dtype(default_dtype() if config.dtype == "auto" else config.dtype, model_config)
    if config.quantization == "smoothquant" and found == torch.bfloat16:  # its factors need more digits
        return torch.float16 if torch.cuda.is_available() else torch.float32
    return found


def default_dtype() -> str:
    """What ``option.dtype=auto`` means on this machine: bf16 where its device computes that, else fp16, else fp32."""
    import torch

    if has_bf16():
        return "bf16"
    return "fp16" if torch.cuda.is_available() else "fp32"


def _meet(ranks: Ranks, progress: Progress) -> None:
    import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import torch

    progress("meet the other ranks")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)
    _choose_reduction(ranks)
    _unname_buffers(ranks)


def _choose_reduction(ranks: Ranks) -> None:
    """Use DeepSpeed's sums over shared memory where each rank has a core: they wait busily."""
    from deepspeed.comm import comm  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if ranks.local_size > n_cores() or ranks.local_size < ranks.size:
        comm.cdb.shm_vector_kernel_level = 0
        log.info("sums over ranks go through gloo: %d ranks share %d cores", ranks.local_size, n_cores())


def _unname_buffers(ranks: Ranks) -> None:
    """Take the name of the memory that DeepSpeed shares among ranks, once all of them have opened it.

    It never does so itself, and a hundred megabytes and more would stay behind each start; without a name the memory
    ends with the ranks, however they end. Source of the name: ``csrc/cpu/comm/shm.cpp`` of DeepSpeed 0.19.
    """
    from deepspeed import comm  # type: ignore[import-not-found,import-untyped,unused-ignore]

    comm.barrier()
    place = "_".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{place}_{ranks.rank}"
    Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108 - there is no other place
