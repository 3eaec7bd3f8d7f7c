# SPDX-License-Identifier: Apache-2.0
"""Loading on trtllm, on a stand-in: too little memory, engines that are built and kept, releases that lack a thing."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import logging
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import EngineLoadError, OutOfMemoryError
from lmi_trtllm.config import TrtllmConfig
from tests.backends.trtllm_standin import (
    ENGINES,
    PACKAGE,
    answer,
    cache,
    folder,
    ids_of,
    installed,
    load,
    request,
    running,
    standin,
)

__all__ = ["cache", "folder", "standin"]


def test_memory_that_runs_out_while_loading_is_told_in_the_words_of_the_cause(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_STANDIN_OUT_OF_MEMORY", "1")
    with pytest.raises(OutOfMemoryError, match=r"CUDA out of memory.* <- Executor worker returned error") as caught:
        load(folder)
    assert "option.kv_cache_free_gpu_mem_fraction" in caught.value.hint


def test_engines_for_two_ranks_do_not_load_with_one(standin: Path, folder: Path, tmp_path: Path) -> None:
    built = build(folder, tmp_path / "engines", tensor_parallel_degree=2)
    with pytest.raises(EngineLoadError, match=r"tp_size and pp_size \(1, 1\)"):
        load(built, tensor_parallel_degree=1)
    engine = load(built, tensor_parallel_degree=2)
    assert len(ids_of(running(engine, lambda: answer(engine, request())))) == 5


def build(folder: Path, output: Path, **options: Any) -> Path:
    """Engines as the library saves them, with the tokenizer beside them."""
    engine = load(folder, backend="tensorrt", **options)
    engine.llm.save(str(output))
    asyncio.run(engine.close())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (output / name).write_bytes((folder / name).read_bytes())
    return output


# ------------------------------------------------------------------------------------------------------------- building


def test_what_a_start_builds_is_kept_and_taken_again(
    standin: Path, folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages: list[str] = []
    with caplog.at_level(logging.INFO, "lmi_trtllm"):
        for _ in range(2):
            engine = load(folder, stages, quantize="awq")
            asyncio.run(engine.close())
    assert stages == ["import tensorrt_llm", "build engines", "keep the engines", "import tensorrt_llm", "load engines"]
    (kept,) = cache.iterdir()
    assert sorted(each.name for each in kept.iterdir()) == ["config.json", "model.cache", "rank0.engine"]
    assert engine.llm.args.model == str(kept) and engine.llm.args.tokenizer == str(folder)
    assert "tensorrt (quantize=awq is applied while engines are built)" in caplog.text
    assert f"Engines: {kept}, built at an earlier start" in caplog.text


@pytest.mark.parametrize(
    ("options", "is_another"),
    [
        ({"calib_size": 64}, True),
        ({"max_input_len": 100, "max_output_len": 100}, True),
        ({"tensor_parallel_degree": 2}, True),
        ({"kv_cache_free_gpu_mem_fraction": 0.5}, False),
        ({"batch_scheduler_policy": "guaranteed_no_evict"}, False),
    ],
)
def test_options_of_the_build_decide_what_is_built_anew(
    standin: Path, folder: Path, cache: Path, options: dict[str, Any], is_another: bool
) -> None:
    for each in ({}, options):
        asyncio.run(load(folder, quantize="awq", **each).close())
    assert len(list(cache.iterdir())) == 1 + is_another


def test_a_build_that_fails_leaves_nothing_behind(
    standin: Path, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt_llm._tensorrt_engine import LLM

    def fail(self: Any, engine_dir: str) -> None:
        (Path(engine_dir) / "config.json").write_text("{}")
        raise OSError("No space left on device")

    monkeypatch.setattr(LLM, "save", fail)
    with pytest.raises(EngineLoadError, match="No space left on device"):
        load(folder, quantize="awq")
    assert list(cache.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- the library


def test_a_release_without_engines_is_refused_with_the_reason_and_the_last_that_has_them(
    tmp_path: Path, folder: Path
) -> None:
    with installed(tmp_path / "site", "1.3.0", has_engines=False):
        assert not (tmp_path / "site" / "tensorrt_llm" / ENGINES).exists()
        with pytest.raises(EngineLoadError) as caught:
            load(folder, quantize="smoothquant")
        asyncio.run(load(folder).close())  # without the option it is served
    assert caught.value.code == "engine.symbol-moved"
    assert "tensorrt-llm 1.3.0 builds and runs no engines any more, and quantize=smoothquant" in caught.value.message
    assert caught.value.hint.startswith("Install tensorrt-llm 1.2")


def test_what_moved_in_the_library_is_named_by_the_check_and_by_a_load(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt_llm.llmapi.llm import RequestOutput, _TorchLLM
    from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

    assert lmi_trtllm.lmi_check_engine(TrtllmConfig()) == []
    monkeypatch.delattr(RequestOutput, "abort")
    monkeypatch.delattr(_TorchLLM.__mro__[1], "shutdown")
    monkeypatch.setattr(TorchLlmArgs, "__init__", without(TorchLlmArgs.__init__, "sampler_type"))
    found = [each.message for each in lmi_trtllm.lmi_check_engine(TrtllmConfig())]
    assert found == [
        "tensorrt-llm 1.2.1 has no tensorrt_llm.llmapi.llm_args.TorchLlmArgs(sampler_type=)",
        "tensorrt-llm 1.2.1 has no tensorrt_llm.LLM.shutdown",
        "tensorrt-llm 1.2.1 has no tensorrt_llm.llmapi.llm.RequestOutput.abort",
    ]
    with pytest.raises(EngineLoadError, match=r"engine.unfit: 3 problems with the engine of trtllm"):
        load(folder)


def without(function: Any, name: str) -> Any:
    """The same function, whose signature lacks a parameter."""

    @functools.wraps(function)
    def changed(*args: Any, **keywords: Any) -> Any:
        return function(*args, **keywords)

    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name != name]
    changed.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return changed


def test_a_release_whose_death_could_not_be_noticed_is_refused(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt_llm._standin.running import Executor

    monkeypatch.delattr(Executor, "is_shutdown")
    with pytest.raises(EngineLoadError, match=r"engine.symbol-moved: .* has no LLM._executor.is_shutdown"):
        load(folder)


def test_a_library_that_cannot_be_imported_says_why(tmp_path: Path, folder: Path) -> None:
    with installed(tmp_path / "site") as site:
        (site / "tensorrt_llm" / "__init__.py").unlink()
        (site / "tensorrt_llm" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')\n")
        (problem,) = lmi_trtllm.lmi_check_engine(TrtllmConfig())
    assert problem.code == "engine.library-broken" and "libnvinfer.so.10" in problem.message


def test_every_file_of_the_stand_in_says_that_it_is_one() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "_standin" not in path.parts]
    assert files
    assert [
        path.name for path in files if "stand-in" not in (ast.get_docstring(ast.parse(path.read_text())) or "").lower()
    ] == []
