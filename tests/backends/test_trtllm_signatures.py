# SPDX-License-Identifier: Apache-2.0
"""The stand-in has TensorRT-LLM's recorded signatures, and the plugin uses nothing that was not recorded."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import ArtifactFormat, ModelArtifacts, Symbol
from lmi_trtllm.arguments import engine_arguments
from lmi_trtllm.calls import MODULES
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.symbols import PENALTY_START, symbols_of
from tests.backends.trtllm_standin import CONTRACT, installed
from tests.standins.signatures import differences

SOURCES = Path(lmi_trtllm.__file__).parent
RECORD: dict[str, Any] = json.loads(CONTRACT.read_text())["items"]
PUBLIC = {
    "tensorrt_llm.LLM": "tensorrt_llm.llmapi.llm._TorchLLM",
    "tensorrt_llm._tensorrt_engine.LLM": "tensorrt_llm.llmapi.llm._TrtLLM",
}
"""Public name -> the recorded one. Of the second only what it has beside the first was recorded."""

BOTH_LISTS = ("tensorrt_llm.llmapi.llm_args.LLM_keywords_rc", "tensorrt_llm.llmapi.llm_args.TorchLlmArgs")
LLAMA = ModelArtifacts(
    folder="/model", format=ArtifactFormat.PRETRAINED, architectures=("LlamaForCausalLM",), model_type="llama"
)
EVERYTHING = (
    {"rotary_base": 5e5, "rotary_scaling_type": "linear", "rotary_scaling_factor": 2.0, "tokens_per_block": 64,
     "use_custom_all_reduce": True, "enable_trt_overlap": True, "max_num_tokens": 512, "pipeline_parallel_degree": 2},
    {"quantize": "smoothquant", "multi_block_mode": True, "use_fused_mlp": True, "tokens_per_block": 64,
     "enable_kv_cache_reuse": True, "max_draft_len": 3, "max_num_tokens": 512},
    {"quantize": "awq", "calib_size": 64, "calib_batch_size": 8, "awq_block_size": 64},
    {"quantize": "fp8", "use_fp8_context_fmha": True, "gather_context_logits": True, "enable_lora": True},
    {"enable_lora": True},
)  # fmt: skip
"""Options that between them reach every call."""


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Any]:
    with installed(tmp_path / "site"):
        yield importlib.import_module("tensorrt_llm")


def fields_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a recorded class, those that it inherits included."""
    found: dict[str, Any] = {each["name"]: each for each in item.get("parameters", ())}
    for name in item.get("bases", ()):
        above = next((each for path, each in RECORD.items() if path.endswith(f".{name}")), None)
        found.update(fields_of(above) if above else {})
    return {**found, **item.get("fields", {})}


def record_of(symbol: Symbol) -> dict[str, Any] | None:
    owner, _, method = symbol.path.rpartition(".")
    if owner in PUBLIC:
        methods = [RECORD[PUBLIC[name]]["methods"] for name in (owner, "tensorrt_llm.LLM")]
        found: dict[str, Any] | None = next((each[method] for each in methods if method in each), None)
        return found
    return RECORD.get(symbol.path)


def unrecorded(symbol: Symbol) -> list[str]:
    """What of a symbol was not recorded."""
    item = record_of(symbol)
    if item is None:
        return [symbol.path]
    known = {name.removeprefix("_") for name in fields_of(item)}
    known |= {*item.get("methods", ()), *item.get("properties", ()), *item.get("members", ())}
    wanted = [*symbol.passed, *symbol.keywords, *symbol.members]
    return [f"{symbol.path}: {name}" for name in wanted if name not in known]


def test_the_stand_in_has_the_recorded_signatures(standin: Any) -> None:
    assert differences(standin, CONTRACT) == []


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        (("tensorrt_llm.llmapi.llm_args.KvCacheConfig", "fields", "tokens_per_block", "default"), "64", "default 32"),
        (("tensorrt_llm.llmapi.llm_args.SchedulerConfig", "fields", "gone"), {"default": "None"}, "gone is recorded"),
        (("tensorrt_llm.sampling_params.SamplingParams", "fields", "seed"), None, "seed is not in the record"),
        (("tensorrt_llm.llmapi.llm_args.BatchingType", "members", "V1"), "'V1'", "BatchingType.V1 is None"),
        (("tensorrt_llm.llmapi.llm.RequestOutput", "methods", "abort"), None, "abort is not in the record"),
        (("tensorrt_llm.llmapi.llm._TrtLLM", "methods", "save", "parameters"), [], "save(engine_dir), recorded ()"),
        (("tensorrt_llm.llmapi.llm.RequestOutput", "methods", "aresult", "async"), False, "aresult: only one"),
        (("tensorrt_llm.builder.BuildConfig",), None, "BuildConfig is not in the record"),
    ],
)  # fmt: skip
def test_any_drift_between_stand_in_and_record_is_told(
    standin: Any, tmp_path: Path, path: tuple[str, ...], change: Any, said: str
) -> None:
    content = json.loads(CONTRACT.read_text())
    inner = content["items"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = change
    if change is None:
        del inner[path[-1]]
    changed = tmp_path / "record.json"
    changed.write_text(json.dumps(content))
    found = differences(standin, changed)
    assert any(said in each for each in found), found


@pytest.mark.parametrize("options", EVERYTHING)
def test_everything_that_is_called_was_recorded(options: dict[str, Any]) -> None:
    symbols = symbols_of(engine_arguments(LLAMA, TrtllmConfig(**options)))
    assert [each for symbol in symbols for each in unrecorded(symbol)] == []


def test_every_class_that_arguments_can_name_was_recorded() -> None:
    assert [name for name, module in MODULES.items() if f"{module}.{name}" not in RECORD] == []


def test_keywords_of_the_pytorch_way_are_in_both_recorded_lists() -> None:
    keywords = {
        name
        for options in (EVERYTHING[0], EVERYTHING[-1])
        for name in engine_arguments(LLAMA, TrtllmConfig(**options)).keywords
    }
    lists = [fields_of(RECORD[path]) for path in BOTH_LISTS]
    # The first list is of a release candidate; there a rotary option is refused by name.
    assert [name for name in keywords if any(name not in each for each in lists)] == ["model_kwargs"]


def imports_of_the_library() -> Iterator[tuple[str, str, str]]:
    """File, module and name of whatever the plugin imports from the library."""
    for path in sorted(SOURCES.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tensorrt_llm":
                yield from ((path.name, node.module or "", each.name) for each in node.names)
            elif isinstance(node, ast.Import):
                yield from ((path.name, each.name, "") for each in node.names if each.name.startswith("tensorrt_llm"))


def test_whatever_the_plugin_imports_of_the_library_is_looked_for_before_a_load() -> None:
    probed = {symbol.path for options in EVERYTHING for symbol in symbols_of(
        engine_arguments(LLAMA, TrtllmConfig(**options)))}  # fmt: skip
    used = {f"{module}.{name}" for _, module, name in imports_of_the_library()}
    assert used
    assert [each for each in used if not any(f"{path}.".startswith(f"{each}.") for path in probed)] == []


def keywords_in(name: str, callee: str) -> set[str]:
    """Keywords and string keys by which a function of a file fills a call."""
    found = set()
    for node in ast.walk(ast.parse((SOURCES / name).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == callee:
            found |= {each.arg for each in node.keywords if each.arg}
    return found


def test_guides_take_recorded_keywords_alone() -> None:
    recorded = fields_of(RECORD["tensorrt_llm.sampling_params.GuidedDecodingParams"])
    assert keywords_in("sampling.py", "GuidedDecodingParams") <= set(recorded)


def test_every_field_of_a_request_is_looked_for(standin: Any) -> None:
    from lmi.api import Constraint, GenerationRequest, SamplingParams
    from lmi_trtllm.sampling import next_leg, sampling_params

    asked = SamplingParams(
        max_tokens=9, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, seed=1, repetition_penalty=2.0,
        presence_penalty=1.0, frequency_penalty=1.0, logit_bias={1: 1.0}, bad_token_ids=(1,), stop_token_ids=(2,),
        n_logprobs=1, n_prompt_logprobs=1, constraint=Constraint(kind="regex", source="a"),
    )  # fmt: skip
    request = GenerationRequest(request_id="a", prompt_ids=[1, 2], sampling=asked)
    made = sampling_params(request, next_leg(request, []), (0,), 300)
    default = type(made)()
    changed = {name for name in vars(made) if repr(getattr(made, name)) != repr(getattr(default, name))}
    (symbol,) = [each for each in symbols_of(engine_arguments(LLAMA, TrtllmConfig())) if each.name == "SamplingParams"]
    assert changed <= {*symbol.keywords, PENALTY_START}
    assert {*symbol.keywords} - changed == set()
