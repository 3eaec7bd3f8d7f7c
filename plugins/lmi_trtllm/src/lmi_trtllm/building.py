# SPDX-License-Identifier: Apache-2.0
"""Engines built from weights: the build itself, and a folder that keeps what was built for the next start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmi.api import ModelArtifacts, Progress
from lmi.api.folders import cache_root
from lmi_trtllm.arguments import OF_THE_BUILD, EngineArguments
from lmi_trtllm.calls import made, plain
from lmi_trtllm.symbols import TIMING_CACHE

_DIGEST_CHARS = 24
_BUILD, _TIMES = "build_config", "model.cache"
_OF_THE_RANKS = ("tensor_parallel_size", "pipeline_parallel_size", "dtype", "trust_remote_code")


def open_llm(arguments: EngineArguments) -> Any:
    """The library's LLM object for some arguments: it loads weights or engines, and builds them where it has to.

    Raises:
        Exception: whatever the library raises.
    """
    if arguments.way == "pytorch":
        from tensorrt_llm import LLM
    else:
        from tensorrt_llm._tensorrt_engine import LLM
    keywords = {name: made(value) for name, value in arguments.keywords.items()}
    return LLM(model=arguments.model, tokenizer=arguments.tokenizer, **keywords)


def build_engines(arguments: EngineArguments, output_dir: Path, progress: Progress) -> Any:
    """Build engines from weights, and write them into a folder, which is there as a whole or not at all.

    Args:
        arguments: those of the way that builds engines, with weights as their model.
        output_dir: not there yet; made with the engines.
        progress: told what goes on.
    Returns:
        The library's LLM object, which runs on the new engines.
    Raises:
        Exception: whatever the library raises.
    """
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    try:
        progress("build engines")
        llm = open_llm(_keeping_times(arguments, folder))
        progress("keep the engines")
        llm.save(str(folder))
        with contextlib.suppress(OSError):  # another copy of the model was faster
            folder.rename(output_dir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return llm


def _keeping_times(arguments: EngineArguments, folder: Path) -> EngineArguments:
    """The arguments with a place for the times that the build measures; left alone, they go into the current folder."""
    build = arguments.keywords[_BUILD]
    timed = replace(build, keywords={**build.keywords, TIMING_CACHE: str(folder / _TIMES)})
    return replace(arguments, keywords={**arguments.keywords, _BUILD: timed})


def kept_at(artifacts: ModelArtifacts, arguments: EngineArguments, version: str, environ: Mapping[str, str]) -> Path:
    """The folder in which a model's engines are kept: one for each model, set of options, release and GPU.

    Args:
        artifacts: the model.
        arguments: of the build.
        version: of TensorRT-LLM.
        environ: names the cache folder.
    """
    keywords = {
        name: plain(value)
        for name, value in arguments.keywords.items()
        if name in OF_THE_BUILD or name in _OF_THE_RANKS
    }
    identity = [artifacts.folder, sorted(artifacts.files.items()), artifacts.config, keywords, version, _gpu()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:_DIGEST_CHARS]
    return cache_root(environ) / "trtllm" / digest


def is_kept(folder: Path) -> bool:
    """Whether a folder holds engines."""
    return (folder / "config.json").is_file() and any(folder.glob("*.engine"))


def _gpu() -> str:
    """What the engines will run on: they are of no use on another GPU."""
    import torch

    if not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.get_device_name(0)} {torch.cuda.get_device_capability(0)}"
