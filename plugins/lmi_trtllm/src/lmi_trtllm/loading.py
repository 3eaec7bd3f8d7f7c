# SPDX-License-Identifier: Apache-2.0
"""From options to a running engine of TensorRT-LLM, in the worker."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import (
    ArtifactFormat,
    BackendInfo,
    Engine,
    EngineLoadError,
    LmiError,
    ModelArtifacts,
    OutOfMemoryError,
    Progress,
    refuse_engine,
    shape_of,
)
from lmi_trtllm.adapters import refuse_unfit
from lmi_trtllm.arguments import EngineArguments, engine_arguments
from lmi_trtllm.building import build_engines, is_kept, kept_at, open_llm
from lmi_trtllm.built import is_built, read_built, section
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.guard import find_problems, installed_version
from lmi_trtllm.messages import is_out_of_memory, reasons_of
from lmi_trtllm.paths import PYTORCH, TENSORRT, way_of
from lmi_trtllm.repository import ENGINES, NAME, finish_repository
from lmi_trtllm.symbols import PENALTY_START

_LOG = logging.getLogger(__name__)


def load(info: BackendInfo, artifacts: ModelArtifacts, config: TrtllmConfig, progress: Progress) -> Engine:
    """Start TensorRT-LLM on a model.

    Args:
        info: the backend's description.
        artifacts, config, progress: as ``lmi_load_engine`` has them.
    Raises:
        EngineLoadError: the library lacks what is called here, or could not load the model; with its words.
        OutOfMemoryError: with the same.
    """
    arguments, way = _prepared(info, artifacts, config, progress), way_of(artifacts, config)
    _check_built(artifacts)
    _LOG.info("TensorRT-LLM's way: %s%s", way.name, f" ({way.reason})" if way.reason else "")
    with _explained(artifacts.folder):
        llm = _started(artifacts, arguments, progress)
    return _engine(llm, artifacts, config, arguments)


def build(
    info: BackendInfo, artifacts: ModelArtifacts, config: TrtllmConfig, output: Path, progress: Progress
) -> ModelArtifacts:
    """Build engines into a folder, with what else makes it a model.

    Args:
        info, artifacts, config, progress: as ``load`` has them.
        output: an empty folder.
    Returns:
        What the folder holds.
    Raises:
        EngineLoadError, OutOfMemoryError: as ``load`` does.
    """
    if is_built(artifacts):
        raise EngineLoadError(
            "model.already-built", f"{artifacts.folder} holds engines; there is nothing to build", "Serve it as it is"
        )
    arguments = _prepared(info, artifacts, config.model_copy(update={"backend": TENSORRT}), progress)
    with _explained(artifacts.folder):
        build_engines(arguments, output / NAME / ENGINES, progress).shutdown()
    finish_repository(artifacts, config, output)
    return msgspec.structs.replace(artifacts, folder=str(output), format=ArtifactFormat.TRITON_REPOSITORY, inner=NAME)


def _prepared(
    info: BackendInfo, artifacts: ModelArtifacts, config: TrtllmConfig, progress: Progress
) -> EngineArguments:
    """What the library is called with, once it is imported and has all of it."""
    progress("import tensorrt_llm")
    __import__("tensorrt_llm")  # its absence is told by the core, with how to install it
    arguments = engine_arguments(artifacts, config)
    refuse_engine(info.name, find_problems(info, arguments, way_of(artifacts, config).reason))
    return arguments


def _started(artifacts: ModelArtifacts, arguments: EngineArguments, progress: Progress) -> Any:
    if arguments.way == PYTORCH or arguments.is_built:
        progress("load weights" if arguments.way == PYTORCH else "load engines")
        return open_llm(arguments)
    folder = kept_at(artifacts, arguments, installed_version(), os.environ)
    if is_kept(folder):
        _LOG.info("Engines: %s, built at an earlier start", folder)
        progress("load engines")
        return open_llm(arguments.once_built(str(folder)))
    _LOG.info("Engines: none that fit are kept; building them for %s", folder)
    return build_engines(arguments, folder, progress)


def _engine(llm: Any, artifacts: ModelArtifacts, config: TrtllmConfig, arguments: EngineArguments) -> Engine:
    from tensorrt_llm.sampling_params import SamplingParams

    from lmi_trtllm.engine import TrtllmEngine

    if not callable(getattr(getattr(llm, "_executor", None), "is_shutdown", None)):
        llm.shutdown()
        raise EngineLoadError(
            "engine.symbol-moved",
            f"tensorrt-llm {installed_version()} has no LLM._executor.is_shutdown, by which its death would be noticed",
            "Install a release that this plugin was written for",
        )
    more: dict[str, Any] = {
        "eos_token_ids": artifacts.eos_token_ids,
        "vocab_size": _vocab_size(artifacts),
        "skips_prompt": PENALTY_START in inspect.signature(SamplingParams).parameters,
    }
    if not arguments.n_adapters:
        return TrtllmEngine(llm, arguments, **more)
    from lmi_trtllm.adapter_engine import AdapterEngine

    return AdapterEngine(llm, arguments, check=functools.partial(refuse_unfit, artifacts, config), **more)


def _vocab_size(artifacts: ModelArtifacts) -> int:
    size = shape_of(artifacts).vocab
    if not size and is_built(artifacts):
        model = section(artifacts.document(read_built(artifacts).config_name), "pretrained_config")
        size = int(model.get("vocab_size") or 0)
    return size


def _check_built(artifacts: ModelArtifacts) -> None:
    """Engines of the time before 0.8 have a configuration that no later release reads."""
    if not is_built(artifacts):
        return
    engines = read_built(artifacts)
    if not section(artifacts.document(engines.config_name), "pretrained_config"):
        raise EngineLoadError(
            "model.compiler-version",
            f"{engines.config_name} in {artifacts.folder} has no pretrained_config: its engines are of a TensorRT-LLM "
            f"before 0.8, and {installed_version()} loads engines only of its own version",
            "Build the engines anew, or serve the model they were built from",
        )


@contextlib.contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Say what went wrong with a model in LMI's words."""
    try:
        yield
    except (LmiError, ImportError):
        raise
    except Exception as error:
        raise _reason(error, folder) from error


def _reason(error: Exception, folder: str) -> LmiError:
    """What went wrong, its cause first: the library's own exception says that there was one."""
    message = f"TensorRT-LLM could not load {folder}: {reasons_of(error)}"
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "engine.out-of-memory",
            message,
            "Lower option.max_rolling_batch_size, option.max_input_len or option.kv_cache_free_gpu_mem_fraction, raise "
            "option.tensor_parallel_degree, or take a larger GPU",
        )
    return EngineLoadError("engine.load-failed", message, "The log above says more")
