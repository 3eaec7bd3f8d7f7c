# SPDX-License-Identifier: Apache-2.0
"""The stand-in for TensorRT-LLM where a test wants it: as an installed package, of this process or of a server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import GenerationRequest, SamplingParams, TokenChunk
from lmi.artifacts import detect
from lmi.testing import write_tiny
from lmi_trtllm.config import TrtllmConfig
from tests.limits import limit_s

STANDINS = Path(__file__).parents[1] / "standins"
PACKAGE = STANDINS / "trtllm" / "tensorrt_llm"
CONTRACT = STANDINS / "contracts" / "tensorrt_llm.json"
VERSION = "1.2.1"
ENGINES = "_tensorrt_engine"
PROMPT = [5, 6, 7]
_HOLDERS = ("lmi_trtllm.sampling", "lmi_trtllm.engine", "lmi_trtllm.adapter_engine")
"""Modules of the plugin that hold on to what they imported of the library."""


def write_site(folder: Path, version: str = VERSION, *, has_engines: bool = True) -> Path:
    """A folder for the module search path that looks as if TensorRT-LLM were installed there.

    Args:
        folder: made if it does not exist.
        version: that it claims to be.
        has_engines: whether it is a release that builds engines.
    """
    info = folder / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt-llm\nVersion: {version}\n")
    package = folder / "tensorrt_llm"
    package.mkdir()
    for each in PACKAGE.iterdir():
        if each.name not in ("__pycache__", *(() if has_engines else (ENGINES,))):
            (package / each.name).symlink_to(each)
    return folder


_GPUS = """\
# Every process of the server finds this before it starts: the machine has GPUs that are none.
from lmi.devices import cuda

FOUND = tuple(
    cuda.Gpu(entry=str(number), memory_bytes=24 << 30, name="NVIDIA A10G", compute_capability="8.6")
    for number in range({n_gpus})
)
cuda.all_gpus = lambda root: FOUND
"""


def write_gpus(site: Path, n_gpus: int = 1) -> None:
    """Let every process that has this folder on its path believe that the machine has GPUs."""
    (site / "sitecustomize.py").write_text(_GPUS.format(n_gpus=n_gpus))


@contextlib.contextmanager
def installed(folder: Path, version: str = VERSION, *, has_engines: bool = True) -> Iterator[Path]:
    """This process finds the stand-in for as long as the block takes."""
    site = write_site(folder, version, has_engines=has_engines)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    try:
        yield site
    finally:
        sys.path.remove(str(site))
        # What was imported from it, and what of the plugin holds on to that.
        for name in [*sys.modules]:
            if name.partition(".")[0] == "tensorrt_llm" or name in _HOLDERS:
                del sys.modules[name]
        importlib.invalidate_caches()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines are kept that a start builds."""
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trtllm"


@pytest.fixture
def standin(tmp_path: Path, cache: Path) -> Iterator[Path]:
    """The stand-in, installed for one test."""
    with installed(tmp_path / "site") as site:
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model."""
    return write_tiny("llama", tmp_path / "model")


def load(folder: Path, stages: list[str] | None = None, **options: Any) -> Any:
    """The engine of a model; the stages of its loading go into a list."""

    def progress(stage: str, fraction: float | None = None) -> None:
        if stages is not None:
            stages.append(stage)

    return lmi_trtllm.lmi_load_engine(detect(folder), TrtllmConfig(**options), progress)


def request(prompt_ids: list[int] | None = None, max_tokens: int = 5, **more: Any) -> GenerationRequest:
    """A request that runs to its end; further keywords are of its sampling, or its resumed ids and adapter."""
    resumed, adapter = more.pop("resumed_ids", []), more.pop("adapter", "")
    sampling = SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **more})
    return GenerationRequest(
        request_id="a", prompt_ids=PROMPT if prompt_ids is None else prompt_ids, resumed_ids=resumed, sampling=sampling,
        adapter=adapter,
    )  # fmt: skip


async def answer(engine: Any, asked: GenerationRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(asked)]


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.ids]


def running(engine: Any, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a scenario with an engine, and close it."""

    async def whole() -> Any:
        try:
            return await asyncio.wait_for(scenario(), limit_s(20))
        finally:
            await engine.close()

    return asyncio.run(whole())
