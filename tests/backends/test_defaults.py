# SPDX-License-Identifier: Apache-2.0
"""An option set to its documented default, as text in serving.properties, never stops a start and is never scolded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.config.coerce import as_text
from lmi.effective import Effective, effective
from lmi.plugins import Plugins

PLUGINS = Plugins.discover({"LMI_EXTENSIONS": ""})
DEVICES = {"neuronx": "neuron:12"}
ENTRY_POINTS = {"neuronx": "djl_python.transformers_neuronx", "trtllm": "djl_python.tensorrt_llm"}
"""What selects a backend whose option rolling_batch is the one under test."""

OWN_DEFAULTS = [
    (backend, name, as_text(info.default))
    for backend, config_type in PLUGINS.config_types().items()
    for name, info in config_type.model_fields.items()
    if name not in ("rolling_batch", "entryPoint")
]

DOCUMENTED = [
    # Names that select a backend; "auto" leaves it to the entry point.
    ("neuronx", "rolling_batch", "auto"),
    ("trtllm", "rolling_batch", "auto"),
    # What LMI's guides print as a default where the option's own default is to leave the choice to the engine.
    *[("trtllm", name, text) for name, text in [
        ("max_input_len", "1024"), ("max_input_len", "512"), ("max_output_len", "512"), ("max_output_len", "1024"),
        ("max_num_tokens", "16384"), ("use_custom_all_reduce", "false"), ("tokens_per_block", "64"),
        ("tokens_per_block", "128"), ("batch_scheduler_policy", "max_utilization"),
        ("kv_cache_free_gpu_mem_fraction", "0.95"), ("max_num_sequences", "32"), ("enable_trt_overlap", "false"),
        ("enable_kv_cache_reuse", "false"), ("baichuan_model_version", "v1_13b"),
        ("chatglm_model_version", "unspecified"), ("gpt_model_version", "gpt2"), ("multi_block_mode", "false"),
        ("use_fused_mlp", "false"), ("rotary_base", "10000.0"), ("rotary_dim", "64"), ("rotary_scaling_type", "None"),
        ("rotary_scaling_factor", "None"), ("smoothquant_alpha", "0.8"), ("smoothquant_per_token", "false"),
        ("smoothquant_per_channel", "false"), ("multi_query_mode", "false"), ("q_format", "int4_awq"),
        ("calib_size", "32"), ("max_rolling_batch_size", "32"), ("max_rolling_batch_size", "256"), ("dtype", "fp16"),
    ]],
    *[("neuronx", name, text) for name, text in [
        ("n_positions", "128"), ("load_in_8bit", "False"), ("unroll", "None"), ("neuron_optimize_level", "2"),
        ("enable_saturate_infinity", "false"), ("context_length_estimate", "None"), ("low_cpu_mem_usage", "false"),
        ("load_split_model", "false"), ("dtype", "fp16"), ("partition_schema", "legacy"), ("fuse_qkv", "false"),
        ("on_device_embedding", "false"), ("max_rolling_batch_size", "32"), ("group_query_attention", "None"),
        ("height", "512"), ("width", "512"), ("num_images_per_prompt", "1"),
    ]],
    *[("deepspeed", name, text) for name, text in [
        ("max_tokens", "1024"), ("low_cpu_mem_usage", "true"), ("enable_cuda_graph", "false"),
        ("triangular_masking", "true"), ("return_tuple", "true"), ("training_mp_size", "1"), ("checkpoint", "None"),
        ("max_rolling_batch_size", "4"), ("max_rolling_batch_size", "32"), ("dtype", "fp16"), ("quantize", "None"),
        ("smoothquant_alpha", "None"),
    ]],
    *[(backend, name, text) for backend in ("vllm", "lmi-dist") for name, text in [
        ("max_rolling_batch_size", "32"), ("max_rolling_batch_size", "256"), ("dtype", "fp16"), ("dtype", "auto"),
        ("max_rolling_batch_prefill_tokens", "4096"), ("load_format", "auto"), ("enforce_eager", "False"),
        ("gpu_memory_utilization", "0.9"), ("enable_lora", "False"), ("max_loras", "4"), ("max_lora_rank", "16"),
        ("lora_extra_vocab_size", "256"), ("max_cpu_loras", "None"), ("quantize", "None"), ("max_model_len", "None"),
    ]],
    *[("hf", name, text) for name, text in [
        ("low_cpu_mem_usage", "true"), ("disable_flash_attn", "true"), ("decoding_strategy", "greedy"),
        ("max_sparsity", "0.33"), ("max_splits", "3"), ("dtype", "fp16"), ("device_map", "None"),
        ("device_map", "auto"), ("max_rolling_batch_size", "32"), ("multi_gpu", "None"), ("quantize", "None"),
    ]],
]  # fmt: skip
"""Backend, option and the text of its default as LMI's own documents have it."""

OF_EVERY_MODEL = [
    ("trust_remote_code", "false"), ("handler", "handle"), ("model_loading_timeout", "1800"),
    ("predict_timeout", "120"), ("parallel_loading", "false"), ("output_formatter", "json"),
    ("enable_streaming", "false"), ("mpi_mode", "false"), ("enable_venv", "false"), ("max_output_size", "67108864"),
    ("device_id", "-1"), ("tgi_compat", "false"), ("spec_length", "0"), ("adapters", "adapters"),
    ("retry_threshold", "10"), ("job_queue_size", "1000"), ("batch_size", "1"), ("max_batch_delay", "100"),
    ("max_idle_time", "60"), ("minWorkers", "1"), ("load_on_devices", "*"), ("log_request_metric", "false"),
    ("metrics_aggregation", "1000"), ("required_memory_mb", "0"), ("reserved_memory_mb", "500"),
    ("tensor_parallel_degree", "1"), ("tensor_parallel_degree", "max"), ("pipeline_parallel_degree", "1"),
]  # fmt: skip
"""Keys of every backend."""

_PLAIN = (
    "retry_threshold", "job_queue_size", "batch_size", "max_batch_delay", "max_idle_time", "minWorkers",
    "load_on_devices", "log_request_metric", "metrics_aggregation", "required_memory_mb", "reserved_memory_mb",
)  # fmt: skip


def said(found: Effective) -> list[str]:
    """What is told, but for what is no matter of the options."""
    return [str(problem) for problem in found.problems if problem.code != "engine.not-implemented"]


def resolved(folder: Path, backend: str, name: str, text: str) -> Effective:
    selector = f"option.rolling_batch={backend}"
    if name == "rolling_batch":
        selector = f"option.entryPoint={ENTRY_POINTS[backend]}"
    key = name if name in _PLAIN else f"option.{name}"
    (folder / "serving.properties").write_text(f"{selector}\noption.model_id=org/model\n{key}={text}\n")
    devices = DEVICES.get(backend, "cuda:4")
    return effective(str(folder), flags={}, environ={}, plugins=PLUGINS, devices=devices)


@pytest.mark.parametrize(("backend", "name", "text"), OWN_DEFAULTS + DOCUMENTED)
def test_an_option_set_to_its_default_resolves_without_a_word(backend: str, name: str, text: str, tmp_path: Path):
    found = resolved(tmp_path, backend, name, text)
    assert said(found) == []
    assert found.choice is not None
    assert found.choice.info.name == backend


@pytest.mark.parametrize(("name", "text"), OF_EVERY_MODEL)
@pytest.mark.parametrize("backend", sorted(PLUGINS.backends))
def test_a_default_of_lmi_stops_no_start_of_any_backend(backend: str, name: str, text: str, tmp_path: Path):
    found = resolved(tmp_path, backend, name, text)
    assert [str(problem) for problem in found.problems if problem.severity.value == "error"] == []


@pytest.mark.parametrize("backend", sorted(PLUGINS.backends))
def test_all_defaults_together_stop_no_start(backend: str, tmp_path: Path):
    lines = [f"option.{name}={text}" for owner, name, text in OWN_DEFAULTS if owner == backend]
    lines += [f"option.rolling_batch={backend}", "option.model_id=org/model"]
    (tmp_path / "serving.properties").write_text("\n".join(lines))
    devices = DEVICES.get(backend, "cuda:4")
    found = effective(str(tmp_path), flags={}, environ={}, plugins=PLUGINS, devices=devices)
    assert said(found) == []
