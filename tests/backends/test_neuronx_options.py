# SPDX-License-Identifier: Apache-2.0
"""Every option of neuronx reaches the call of the library that it belongs to; the calls are those of a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_neuronx.config import NeuronxConfig
from tests.backends.neuron_standin import CONTRACTS, loaded, planned, recorded
from tests.standins.signatures import differences

pytestmark = pytest.mark.usefixtures("neuron_libraries")

GONE = object()
"""Of a key that must not be there."""


def test_the_stand_ins_have_the_signatures_that_were_recorded() -> None:
    import optimum.neuron
    import transformers_neuronx

    assert differences(transformers_neuronx, CONTRACTS / "transformers_neuronx.json") == []
    assert differences(optimum.neuron, CONTRACTS / "optimum_neuron.json") == []


# option, family, what is called, the key in its record, the value
REACHES: list[tuple[dict[str, Any], str, str, str, Any]] = [
    ({"n_positions": 200}, "llama", "from_pretrained", "n_positions", [200]),
    ({"n_positions": 200}, "llama", "from_pretrained", "context_length_estimate", [200]),
    ({"n_positions": 200}, "bloom", "from_pretrained", "n_positions", 200),
    ({}, "bloom", "from_pretrained", "context_length_estimate", GONE),
    ({"context_length_estimate": "64,128"}, "bloom", "from_pretrained", "context_length_estimate", [64, 128]),
    ({"context_length_estimate": "64"}, "gptj", "from_pretrained", "context_length_estimate", GONE),
    ({"max_rolling_batch_size": 3}, "llama", "from_pretrained", "batch_size", 3),
    ({"max_rolling_batch_size": 3}, "llama", "from_pretrained", "neuron_config.continuous_batching.max_num_seqs", 3),
    (
        {"rolling_batch_strategy": "naive_rolling_batch"}, "llama", "from_pretrained",
        "neuron_config.continuous_batching", None,
    ),
    (
        {"rolling_batch_strategy": "continuous_batching"}, "mistral", "from_pretrained",
        "neuron_config.continuous_batching.max_num_seqs", 4,
    ),
    ({}, "bloom", "from_pretrained", "neuron_config.continuous_batching", None),
    (
        {"rolling_batch": None, "entryPoint": "djl_python.transformers_neuronx", "batch_size": 2}, "llama",
        "from_pretrained", "batch_size", 2,
    ),
    ({"tensor_parallel_degree": 2}, "llama", "from_pretrained", "tp_degree", 2),
    ({}, "llama", "from_pretrained", "amp", "f16"),
    ({"dtype": "bf16"}, "llama", "from_pretrained", "amp", "bf16"),
    ({"dtype": "fp32"}, "gptj", "from_pretrained", "amp", "f32"),
    ({"unroll": 1}, "llama", "from_pretrained", "unroll", 1),
    ({}, "llama", "from_pretrained", "unroll", GONE),
    ({"quantize": "static_int8"}, "llama", "from_pretrained", "neuron_config.quant.quant_dtype", "s8"),
    ({"load_in_8bit": True, "dtype": "bf16"}, "llama", "from_pretrained", "neuron_config.quant.dequant_dtype", "bf16"),
    ({}, "llama", "from_pretrained", "neuron_config.quant", None),
    (
        {"group_query_attention": "replicated-heads"}, "llama", "from_pretrained",
        "neuron_config.group_query_attention", "replicated-heads",
    ),
    ({"attention_layout": "BSH"}, "llama", "from_pretrained", "neuron_config.attention_layout", "BSH"),
    ({"collectives_layout": "BSH"}, "llama", "from_pretrained", "neuron_config.collectives_layout", "BSH"),
    ({"cache_layout": "BSH"}, "llama", "from_pretrained", "neuron_config.cache_layout", "BSH"),
    ({}, "llama", "from_pretrained", "neuron_config.cache_layout", "SBH"),
    ({"all_reduce_dtype": "fp16"}, "llama", "from_pretrained", "neuron_config.all_reduce_dtype", "float16"),
    ({"cast_logits_dtype": "bfloat16"}, "llama", "from_pretrained", "neuron_config.cast_logits_dtype", "bfloat16"),
    ({"fuse_qkv": True}, "llama", "from_pretrained", "neuron_config.fuse_qkv", True),
    ({"on_device_embedding": True}, "llama", "from_pretrained", "neuron_config.on_device_embedding", True),
    (
        {"shard_over_sequence": True, "tensor_parallel_degree": 2}, "llama", "from_pretrained",
        "neuron_config.shard_over_sequence", True,
    ),
    ({"sequence_parallel": True}, "llama", "from_pretrained", "neuron_config.sequence_parallel_norm", True),
    (
        {"on_device_generation": "top_k=7,do_sample=true"}, "llama", "from_pretrained",
        "neuron_config.on_device_generation.top_k", 7,
    ),
    ({"neuron_optimize_level": 3}, "llama", "to_neuron", "flags", "-O3"),
    ({"neuron_optimize_level": 1}, "gptj", "to_neuron", "flags", "-O1"),
    (
        {"enable_mixed_precision_accumulation": True, "enable_saturate_infinity": True}, "llama", "to_neuron", "flags",
        "--enable-mixed-precision-accumulation --enable-saturate-infinity",
    ),
    ({"enable_saturate_infinity": False}, "llama", "to_neuron", "flags", ""),
    ({"n_positions": 200}, "qwen2", "export", "sequence_length", 200),
    ({"max_rolling_batch_size": 3}, "qwen2", "export", "batch_size", 3),
    ({}, "qwen2", "export", "continuous_batching", True),
    ({"tensor_parallel_degree": 2}, "qwen2", "export", "tp_degree", 2),
    ({"dtype": "bf16"}, "qwen2", "export", "torch_dtype", "torch.bfloat16"),
    ({}, "qwen2", "export", "on_device_sampling", False),
    ({"on_device_generation": "top_k=1"}, "qwen2", "export", "on_device_sampling", True),
    (
        {"rolling_batch": "disable", "entryPoint": "djl_python.transformers_neuronx", "batch_size": 2}, "qwen2",
        "export", "continuous_batching", False,
    ),
    ({"model_loader": "optimum"}, "llama", "export", "batch_size", 4),
    ({"model_loader": "tnx"}, "llama", "from_pretrained", "of", "LlamaForSampling"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "family", "what", "key", "expected"), REACHES)
def test_an_option_reaches_the_call_that_it_belongs_to(
    options: dict[str, Any],
    family: str,
    what: str,
    key: str,
    expected: Any,
    tiny: Callable[[str], Path],
    neuron_record: Path,
) -> None:
    loaded(planned(tiny(family), **options)).close()
    (call,) = recorded(neuron_record, what)
    for name in key.split(".")[:-1]:
        call = call[name]
    assert call.get(key.rpartition(".")[2], GONE) == expected


ELSEWHERE = {
    "rolling_batch", "entryPoint", "trust_remote_code", "max_rolling_batch_size", "batch_size",
    # looked at in test_neuronx_loading.py
    "compiled_graph_path", "load_split_model", "low_cpu_mem_usage", "save_mp_checkpoint_path", "partition_schema",
    # refused, or told to do nothing, in test_neuronx_config.py
    "speculative_draft_model", "draft_model_compiled_path", "speculative_length", "use_stable_diffusion", "height",
    "width", "num_images_per_prompt", "use_auth_token",
}  # fmt: skip


def test_no_option_is_left_out() -> None:
    tested = {name for options, *_ in REACHES for name in options}
    assert set(NeuronxConfig.model_fields) - tested - ELSEWHERE == set()


def test_flags_that_are_there_already_stay_and_are_said_once(
    tiny: Callable[[str], Path], neuron_record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--cache_dir=/graphs -O2")
    loaded(planned(tiny("llama"), neuron_optimize_level=2, enable_saturate_infinity=True)).close()
    (call,) = recorded(neuron_record, "to_neuron")
    assert call["flags"] == "--cache_dir=/graphs -O2 --enable-saturate-infinity"


CLASSES = {
    "llama": "LlamaForSampling", "mistral": "MistralForSampling", "mixtral": "MixtralForSampling",
    "gptj": "GPTJForSampling", "bloom": "BloomForSampling",
}  # fmt: skip


@pytest.mark.parametrize("family", CLASSES)
def test_a_family_has_its_class(family: str, tiny: Callable[[str], Path], neuron_record: Path) -> None:
    loaded(planned(tiny(family))).close()
    (call,) = recorded(neuron_record, "from_pretrained")
    assert (call["of"], call["path"]) == (CLASSES[family], str(tiny(family)))
