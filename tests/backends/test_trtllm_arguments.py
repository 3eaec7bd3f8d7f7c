# SPDX-License-Identifier: Apache-2.0
"""Every option of trtllm reaches the call that it belongs to, in the library's words, on either of its ways."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import ArtifactFormat, BackendConfig, EngineLoadError, ModelArtifacts
from lmi.artifacts import detect
from lmi.testing import write_tiny
from lmi_trtllm.arguments import engine_arguments
from lmi_trtllm.calls import plain
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.guard import find_problems
from lmi_trtllm.paths import CHOOSING, LAST_WITH_ENGINES, PYTORCH, TENSORRT, way_of
from lmi_trtllm.translation import ROWS, is_called
from tests.backends.trtllm_builds import NEW, repository
from tests.backends.trtllm_standin import installed

INFO = lmi_trtllm.lmi_describe_backend()
README = Path(lmi_trtllm.__file__).parents[2] / "README.md"


def model(name: str = "LlamaForCausalLM", **more: Any) -> ModelArtifacts:
    return ModelArtifacts(
        folder="/model", format=ArtifactFormat.PRETRAINED, architectures=(name,), config={"vocab_size": 300}, **more
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny("llama", tmp_path / "model")


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    with installed(tmp_path / "site"):
        yield


def started(folder: Path, **options: Any) -> Any:
    """The arguments that the stand-in's LLM class was made with."""
    config = TrtllmConfig(**options)
    engine = lmi_trtllm.lmi_load_engine(detect(folder), config, lambda stage, fraction=None: None)
    engine.llm.shutdown()  # type: ignore[attr-defined]
    return engine.llm.args  # type: ignore[attr-defined]


def value_at(args: Any, path: str) -> Any:
    for name in path.split("."):
        args = args[name] if isinstance(args, dict) else getattr(args, name)
    return getattr(args, "value", args)


def test_every_option_is_in_the_table_once() -> None:
    own = {name for name in TrtllmConfig.model_fields if name not in BackendConfig.model_fields}
    shared = {"tensor_parallel_degree", "trust_remote_code", "max_rolling_batch_size"}
    assert sorted(row.option for row in ROWS) == sorted(own | shared)


SPLIT = {"tensor_parallel_degree": 2}
BUILT = {"backend": "tensorrt"}
LORA = {"enable_lora": True}
ADAPTED = ["attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_gate", "mlp_4h_to_h"]
REACHES = [
    # ------------------------------------------------------------------------------------- weights as they are
    ({}, "tensor_parallel_size", 1),
    (SPLIT, "tensor_parallel_size", 2),
    ({"pipeline_parallel_degree": 2}, "pipeline_parallel_size", 2),
    ({"trust_remote_code": True}, "trust_remote_code", True),
    ({}, "dtype", "float16"),
    ({"dtype": "bf16"}, "dtype", "bfloat16"),
    ({"dtype": "auto"}, "dtype", "auto"),
    ({}, "max_batch_size", 32),
    ({"max_rolling_batch_size": 7}, "max_batch_size", 7),
    ({"max_num_sequences": 9}, "max_batch_size", 9),
    ({"max_num_tokens": 4096}, "max_batch_size", 256),
    ({"max_input_len": 100, "max_output_len": 20}, "max_seq_len", 120),
    ({"max_input_len": 100, "max_output_len": 20}, "max_input_len", 120),
    ({"max_output_len": 200, "max_input_len": 100}, "max_seq_len", 300),
    ({"max_input_len": 4096}, "max_seq_len", 512),  # what the model was trained on
    ({}, "max_num_tokens", 8192),
    ({"max_num_tokens": 2048}, "max_num_tokens", 2048),
    ({"max_num_tokens": 256}, "enable_chunked_prefill", True),
    ({}, "enable_chunked_prefill", False),
    ({"max_input_len": 20000}, "max_num_tokens", 20512),
    ({}, "kv_cache_config.free_gpu_memory_fraction", 0.95),
    ({"kv_cache_free_gpu_mem_fraction": 0.5}, "kv_cache_config.free_gpu_memory_fraction", 0.5),
    ({}, "kv_cache_config.enable_block_reuse", False),
    ({"enable_kv_cache_reuse": True}, "kv_cache_config.enable_block_reuse", True),
    ({"tokens_per_block": 64}, "kv_cache_config.tokens_per_block", 64),
    ({}, "scheduler_config.capacity_scheduler_policy", "MAX_UTILIZATION"),
    (
        {"batch_scheduler_policy": "guaranteed_no_evict"}, "scheduler_config.capacity_scheduler_policy",
        "GUARANTEED_NO_EVICT",
    ),
    ({}, "disable_overlap_scheduler", True),
    ({"enable_trt_overlap": True}, "disable_overlap_scheduler", False),
    ({"use_custom_all_reduce": True}, "allreduce_strategy", "AUTO"),
    ({"rotary_base": 5e5}, "model_kwargs.rope_theta", 5e5),
    ({"rotary_dim": 32}, "model_kwargs.rotary_dim", 32),
    (
        {"rotary_scaling_type": "linear", "rotary_scaling_factor": 2.0}, "model_kwargs.rope_scaling",
        {"type": "linear", "factor": 2.0},
    ),
    ({}, "lora_config", None),
    (LORA, "lora_config.max_loras", 4),
    ({**LORA, "max_loras": 2}, "lora_config.max_loras", 2),
    ({**LORA, "max_loras": 2}, "lora_config.max_cpu_loras", 2),
    ({**LORA, "max_cpu_loras": 9}, "lora_config.max_cpu_loras", 9),
    ({**LORA, "max_lora_rank": 64}, "lora_config.max_lora_rank", 64),
    (LORA, "lora_config.lora_target_modules", ADAPTED),
    (LORA, "cuda_graph_config", None),
    (LORA, "enable_lora", False),  # the library says that a lora_config makes it superfluous
    ({}, "cuda_graph_config.max_batch_size", 32),
    ({}, "sampler_type", "TRTLLMSampler"),
    ({}, "gather_generation_logits", True),
    ({}, "guided_decoding_backend", "xgrammar"),
    # ------------------------------------------------------------------------------------- engines
    (BUILT, "batching_type", "INFLIGHT"),
    (BUILT, "max_batch_size", 32),
    ({**BUILT, **SPLIT}, "tensor_parallel_size", 2),
    ({**BUILT, "max_rolling_batch_size": 7}, "build_config.max_batch_size", 7),
    ({**BUILT, "max_input_len": 100, "max_output_len": 20}, "build_config.max_seq_len", 120),
    ({**BUILT, "max_input_len": 100, "max_output_len": 20}, "build_config.max_input_len", 120),
    ({**BUILT, "max_num_tokens": 2048}, "build_config.max_num_tokens", 2048),
    ({**BUILT, "max_num_tokens": 256}, "build_config.plugin_config.use_paged_context_fmha", True),
    ({"max_draft_len": 3}, "build_config.max_draft_len", 3),
    ({**BUILT, "tokens_per_block": 128}, "build_config.plugin_config.tokens_per_block", 128),
    ({**BUILT, "use_fused_mlp": True}, "build_config.plugin_config.use_fused_mlp", True),
    ({**BUILT, "enable_kv_cache_reuse": True}, "build_config.plugin_config.use_paged_context_fmha", True),
    ({**BUILT, "enable_kv_cache_reuse": True}, "kv_cache_config.enable_block_reuse", True),
    ({**BUILT, "kv_cache_free_gpu_mem_fraction": 0.5}, "kv_cache_config.free_gpu_memory_fraction", 0.5),
    (BUILT, "scheduler_config.capacity_scheduler_policy", "MAX_UTILIZATION"),
    ({"multi_block_mode": True}, "extended_runtime_perf_knob_config.multi_block_mode", True),
    ({"quantize": "smoothquant"}, "quant_config.quant_algo", "W8A8_SQ_PER_TENSOR_PLUGIN"),
    (
        {"quantize": "smoothquant", "smoothquant_per_token": True}, "quant_config.quant_algo",
        "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    ),
    (
        {"quantize": "smoothquant", "smoothquant_per_channel": True}, "quant_config.quant_algo",
        "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    ),
    (
        {"quantize": "smoothquant", "smoothquant_per_channel": True, "smoothquant_per_token": True},
        "quant_config.quant_algo", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    ),
    ({"quantize": "smoothquant"}, "quant_config.smoothquant_val", 0.8),
    ({"quantize": "smoothquant", "smoothquant_alpha": 0.6}, "quant_config.smoothquant_val", 0.6),
    ({"quantize": "awq"}, "quant_config.quant_algo", "W4A16_AWQ"),
    ({"quantize": "awq", "q_format": "int4_awq"}, "quant_config.quant_algo", "W4A16_AWQ"),
    ({"quantize": "awq", "awq_block_size": 64}, "quant_config.group_size", 64),
    ({"quantize": "awq"}, "calib_config.calib_batches", 32),
    ({"quantize": "awq", "calib_size": 50, "calib_batch_size": 8}, "calib_config.calib_batches", 7),
    ({"quantize": "awq", "calib_size": 50, "calib_batch_size": 8}, "calib_config.calib_batch_size", 8),
    ({"quantize": "fp8"}, "quant_config.quant_algo", "FP8"),
    ({"quantize": "fp8", "use_fp8_context_fmha": True}, "build_config.plugin_config.use_fp8_context_fmha", True),
    ({**BUILT, "rotary_base": 5e5}, "model_kwargs.rope_theta", 5e5),
    (BUILT, "build_config.gather_context_logits", False),
    ({**BUILT, "gather_context_logits": True}, "build_config.gather_context_logits", True),
    (BUILT, "enable_lora", False),
    (BUILT, "build_config.plugin_config.lora_plugin", None),
    ({**BUILT, **LORA}, "enable_lora", True),
    ({**BUILT, **LORA}, "lora_config.max_loras", 4),
    ({**BUILT, **LORA}, "build_config.plugin_config.lora_plugin", "auto"),
    ({**BUILT, **LORA}, "build_config.lora_config.lora_target_modules", ADAPTED),
    ({**BUILT, **LORA, "max_lora_rank": 64}, "build_config.lora_config.max_lora_rank", 64),
]  # fmt: skip
"""Options -> where the stand-in's LLM class got a value, and which."""


@pytest.mark.parametrize(("options", "path", "value"), REACHES)
def test_an_option_reaches_the_call_it_belongs_to(
    standin: None, folder: Path, options: dict[str, Any], path: str, value: Any
) -> None:
    if path == "max_num_tokens" and value == 20512:  # longer than this model's context, so nothing is cut
        options = {**options, "rotary_scaling_type": "linear", "rotary_scaling_factor": 64.0}
    assert value_at(started(folder, **options), path) == value


def test_every_option_that_is_passed_on_has_a_test() -> None:
    tested = {name for options, _, _ in REACHES for name in options}
    passed_on = {row.option for row in ROWS if is_called(row.pytorch) or is_called(row.tensorrt)}
    assert passed_on <= tested


FAMILIES = [
    ("llama", "LlamaForCausalLM", PYTORCH, ""),
    ("falcon", "FalconForCausalLM", TENSORRT, LAST_WITH_ENGINES),
    ("internlm", "InternLMForCausalLM", TENSORRT, LAST_WITH_ENGINES),
    ("baichuan", "BaichuanForCausalLM", TENSORRT, LAST_WITH_ENGINES),
    ("chatglm", "ChatGLMModel", TENSORRT, LAST_WITH_ENGINES),
    ("gptj", "GPTJForCausalLM", TENSORRT, LAST_WITH_ENGINES),
    ("mistral", "MistralForCausalLM", PYTORCH, ""),
    ("mixtral", "MixtralForCausalLM", PYTORCH, ""),
    ("qwen", "QWenLMHeadModel", TENSORRT, LAST_WITH_ENGINES),
    ("qwen2", "Qwen2ForCausalLM", PYTORCH, ""),
    ("gpt2", "GPT2LMHeadModel", TENSORRT, LAST_WITH_ENGINES),
    ("starcoder", "GPTBigCodeForCausalLM", TENSORRT, LAST_WITH_ENGINES),
    ("phi2", "PhiForCausalLM", TENSORRT, LAST_WITH_ENGINES),
]
"""The eleven families that the original compiled while loading, some by two architectures: way, and the last release
that is known to have it where it is gone later."""


@pytest.mark.parametrize(("family", "architecture", "way", "last"), FAMILIES)
def test_each_family_starts_on_its_way_or_names_the_release_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, architecture: str, way: str, last: str
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    folder = write_tiny("llama", tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    with installed(tmp_path / "with"):
        args = started(folder)
        assert type(args).__name__ == {PYTORCH: "TorchLlmArgs", TENSORRT: "TrtLlmArgs"}[way]
    with installed(tmp_path / "without", "1.3.0", has_engines=False):
        artifacts, options = model(architecture), TrtllmConfig()
        found = find_problems(INFO, engine_arguments(artifacts, options), way_of(artifacts, options).reason)
    assert [each.code for each in found] == ["engine.symbol-moved"] * bool(last)
    assert all(f"tensorrt-llm {last}, the last" in each.hint and architecture in each.message for each in found)


def test_the_readme_has_the_table_of_families() -> None:
    section = README.read_text("utf-8").partition("## Families")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (\w+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert rows == [(name, way, last or f"{LAST_WITH_ENGINES} and later") for _, name, way, last in FAMILIES]


def test_the_readme_has_the_table_of_options() -> None:
    absent = dict.fromkeys(CHOOSING, "chooses tensorrt")
    lines = [
        f"| `{row.option}` | {_cell(row.pytorch) or absent.get(row.option, 'refused')} | {_cell(row.tensorrt)} |"
        for row in ROWS
    ]
    text = README.read_text("utf-8")
    section = text.partition("## Options in today's words")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `.*\|$", section, re.MULTILINE) == lines


def _cell(cell: str) -> str:
    return f"`{cell}`" if is_called(cell) else cell.strip("()")


# ------------------------------------------------------------------------------------------------------ built engines


def engines(*, inner: str = "", build: dict[str, Any] | None = None) -> ModelArtifacts:
    content = {**NEW, "build_config": {**NEW["build_config"], **(build or {})}}
    kind = ArtifactFormat.TRITON_REPOSITORY if inner else ArtifactFormat.ENGINES
    start = f"{inner}/1/" if inner else ""
    files = {f"{start}rank{rank}.engine": 9 for rank in range(4)} | {f"{start}config.json": 9}
    return ModelArtifacts(
        folder="/m", format=kind, inner=inner, files=files, documents={f"{start}config.json": content}
    )


def test_built_engines_are_loaded_from_their_folder_and_the_tokenizer_from_the_models() -> None:
    found = engine_arguments(engines(inner="tensorrt_llm"), TrtllmConfig(tensor_parallel_degree=2))
    assert (found.model, found.tokenizer, found.way) == ("/m/tensorrt_llm/1", "/m/tensorrt_llm", TENSORRT)
    found = engine_arguments(engines(), TrtllmConfig(tensor_parallel_degree=2))
    assert (found.model, found.tokenizer, found.is_built) == ("/m", "/m", True)
    assert not {"build_config", "quant_config", "calib_config", "model_kwargs"} & set(found.keywords)
    assert found.keywords["pipeline_parallel_size"] == 2


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (2048, 4096, 64)),
        ({"max_rolling_batch_size": 8}, (2048, 4096, 8)),
        ({"max_input_len": 100}, (100, 4096, 64)),
    ],
)
def test_sizes_of_built_engines_hold_where_options_ask_for_no_less(
    options: dict[str, Any], sizes: tuple[int, int, int]
) -> None:
    found = engine_arguments(engines(), TrtllmConfig(**options))
    assert (found.max_prompt_tokens, found.max_context_tokens, found.max_batch_size) == sizes
    assert found.keywords["max_batch_size"] == sizes[2]
    assert not found.takes_prompt_logits
    assert engine_arguments(engines(build={"gather_context_logits": True}), TrtllmConfig()).takes_prompt_logits


def test_equal_builds_are_equal_data() -> None:
    first, second = (engine_arguments(model(), TrtllmConfig(quantize="awq", calib_size=n)) for n in (32, 33))
    again = engine_arguments(model(), TrtllmConfig(quantize="awq"))
    texts = [{name: plain(value) for name, value in each.keywords.items()} for each in (first, second, again)]
    assert texts[0] == texts[2] != texts[1]


def test_a_configuration_of_engines_before_0_8_is_refused_by_its_version(standin: None, tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match=r"model.compiler-version: .* has no pretrained_config: .* before 0.8"):
        lmi_trtllm.lmi_load_engine(
            repository(), TrtllmConfig(tensor_parallel_degree=2), lambda stage, fraction=None: None
        )


def test_the_library_is_imported_by_nothing_that_only_looks() -> None:
    assert importlib.util.find_spec("tensorrt_llm") is None
    engine_arguments(model(), TrtllmConfig(quantize="smoothquant"))
