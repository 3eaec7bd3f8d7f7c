# SPDX-License-Identifier: Apache-2.0
"""Files and environments that LMI's users have: each resolves to the backend, the mode and the copies it asks for.

``{model}`` stands for the model's folder. Templates of the guides come first, then what they lead people to write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lmi.api import Severity
from lmi.effective import Effective, effective
from lmi.plugins import Plugins
from lmi.reading import read_start

ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "falcon": "FalconForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM", "chatglm": "ChatGLMModel", "baichuan": "BaichuanForCausalLM",
    "opt": "OPTForCausalLM", "gptj": "GPTJForCausalLM", "bloom": "BloomForCausalLM",
}  # fmt: skip
LMI_IMAGE, TRTLLM_IMAGE, NEURON_IMAGE = "vllm,lmi-dist", "trtllm", "vllm,lmi-dist,tnx"
PLUGINS = {
    image: Plugins.discover({"LMI_EXTENSIONS": "", "SERVING_FEATURES": image})
    for image in ("", LMI_IMAGE, TRTLLM_IMAGE, NEURON_IMAGE)
}
NOT_BUILT_YET = "engine.not-implemented"
"""What a backend is warned of that cannot load a model yet; the sample has nothing to do with it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What somebody wrote, where it runs, and what it has to come to."""

    file: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    devices: str = "cuda:4"
    model_type: str = "llama"
    backend: str
    mode: str = "single"
    workers: int
    options: Mapping[str, str]
    warnings: frozenset[str] = frozenset()


SAMPLES = {
    "the guide of Transformers-NeuronX: serving.properties": Sample(
        file="engine=Python\noption.tensor_parallel_degree=4\noption.model_id={model}\n"
        "option.entryPoint=djl_python.transformers_neuronx\noption.max_rolling_batch_size=8\n"
        "option.rolling_batch=auto\noption.model_loading_timeout=1600",
        image=NEURON_IMAGE,
        devices="neuron:12",
        backend="neuronx",
        workers=3,
        options={"tensor_parallel_degree": "4", "max_rolling_batch_size": "8", "model_loading_timeout": "1600"},
    ),
    "the guide of Transformers-NeuronX: variables": Sample(
        environ={
            "SERVING_LOAD_MODELS": "test::Python={model}",
            "OPTION_MODEL_ID": "{model}",
            "OPTION_ENTRYPOINT": "djl_python.transformers_neuronx",
            "OPTION_TENSOR_PARALLEL_DEGREE": "4",
            "OPTION_MAX_ROLLING_BATCH_SIZE": "8",
            "OPTION_ROLLING_BATCH": "auto",
            "OPTION_MODEL_LOADING_TIMEOUT": "1600",
        },
        image=NEURON_IMAGE,
        devices="neuron:12",
        backend="neuronx",
        workers=3,
        options={"tensor_parallel_degree": "4", "max_rolling_batch_size": "8", "model_loading_timeout": "1600"},
    ),
    "the tutorial on compiling for TensorRT-LLM: variables": Sample(
        environ={
            "OPTION_MODEL_ID": "{model}",
            "OPTION_TENSOR_PARALLEL_DEGREE": "8",
            "OPTION_MAX_ROLLING_BATCH_SIZE": "128",
            "OPTION_DTYPE": "fp16",
        },
        image=TRTLLM_IMAGE,
        devices="cuda:8",
        backend="trtllm",
        workers=1,
        options={"tensor_parallel_degree": "8", "max_rolling_batch_size": "128", "dtype": "fp16"},
    ),
    "the tutorial on compiling for TensorRT-LLM: serving.properties": Sample(
        file="option.model_id={model}\noption.tensor_parallel_degree=8\noption.max_rolling_batch_size=128\n"
        "option.dtype=fp16",
        image=TRTLLM_IMAGE,
        devices="cuda:8",
        backend="trtllm",
        workers=1,
        options={"tensor_parallel_degree": "8", "max_rolling_batch_size": "128", "dtype": "fp16"},
    ),
    "the guide of TensorRT-LLM, with comments after values": Sample(
        file="option.model_id={model}\noption.tensor_parallel_degree=1\n"
        "option.max_rolling_batch_size=16 # default is 32\noption.max_input_len=256 # default is 1024\n"
        "option.max_output_len=256 # default is 512",
        image=TRTLLM_IMAGE,
        backend="trtllm",
        workers=4,
        options={"max_rolling_batch_size": "16", "max_input_len": "256", "max_output_len": "256"},
        warnings=frozenset({"config.inline-comment"}),
    ),
    # ------------------------------------------------------------------------------------------ TensorRT-LLM
    "trtllm: everything said": Sample(
        file="engine=MPI\noption.mpi_mode=true\noption.entryPoint=djl_python.tensorrt_llm\noption.rolling_batch=trtllm\n"
        "option.model_id={model}\noption.tensor_parallel_degree=2\noption.use_custom_all_reduce=false\n"
        "option.max_num_tokens=50000\noption.kv_cache_free_gpu_mem_fraction=0.9\noption.enable_kv_cache_reuse=true",
        backend="trtllm",
        workers=2,
        options={"max_num_tokens": "50000", "max_rolling_batch_size": "256", "enable_kv_cache_reuse": "true"},
    ),
    "trtllm: awq under its first names": Sample(
        file="option.model_id={model}\noption.rolling_batch=trtllm\noption.tensor_parallel_degree=4\n"
        "option.quantize=awq\noption.awq_format=int4_awq\noption.awq_calib_size=64",
        model_type="mistral",
        backend="trtllm",
        workers=1,
        options={"quantize": "awq", "q_format": "int4_awq", "calib_size": "64"},
        warnings=frozenset({"config.deprecated"}),
    ),
    "trtllm: smoothquant": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=trtllm\noption.tensor_parallel_degree=4\n"
        "option.quantize=smoothquant\noption.smoothquant_per_channel=True\n"
        "option.multi_query_mode=True\noption.baichuan_model_version=v2_13b",
        model_type="baichuan",
        backend="trtllm",
        workers=1,
        options={"smoothquant_alpha": "0.8", "smoothquant_per_channel": "true", "baichuan_model_version": "v2_13b"},
    ),
    "trtllm: a ChatGLM under the short name of its version": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=auto\noption.tensor_parallel_degree=4\n"
        "option.trust_remote_code=true\noption.chatglm_model_version=chatglm3",
        image=TRTLLM_IMAGE,
        model_type="chatglm",
        backend="trtllm",
        workers=1,
        options={"chatglm_model_version": "chatglm3_6b", "trust_remote_code": "true"},
    ),
    "trtllm: the longest name of rolling_batch": Sample(
        file="option.model_id={model}\noption.rolling_batch=tensorrtllm\noption.tensor_parallel_degree=4",
        backend="trtllm",
        workers=1,
        options={"tensor_parallel_degree": "4"},
        warnings=frozenset({"config.deprecated"}),
    ),
    # ------------------------------------------------------------------------------------------ vLLM
    "vllm: a small file": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=vllm\noption.tensor_parallel_degree=2\n"
        "option.dtype=fp16\noption.max_rolling_batch_size=64\noption.trust_remote_code=true",
        backend="vllm",
        workers=2,
        options={"dtype": "fp16", "max_rolling_batch_size": "64"},
    ),
    "vllm: one copy a device under engine=Python": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=vllm",
        backend="vllm",
        workers=4,
        options={"tensor_parallel_degree": "1", "max_rolling_batch_size": "256"},
    ),
    "vllm: all devices": Sample(
        file="option.model_id={model}\noption.rolling_batch=vllm\noption.tensor_parallel_degree=max\n"
        "option.max_model_len=4096\noption.gpu_memory_utilization=0.85\noption.enforce_eager=True",
        backend="vllm",
        workers=1,
        options={"tensor_parallel_degree": "4", "max_model_len": "4096", "enforce_eager": "true"},
    ),
    "vllm: adapters": Sample(
        file="option.model_id={model}\noption.rolling_batch=vllm\noption.tensor_parallel_degree=1\n"
        "option.enable_lora=true\noption.max_loras=8\noption.max_lora_rank=64\noption.max_cpu_loras=20",
        backend="vllm",
        workers=4,
        options={"enable_lora": "true", "max_loras": "8", "max_lora_rank": "64", "max_cpu_loras": "20"},
    ),
    "vllm: a compressed checkpoint": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=vllm\noption.tensor_parallel_degree=4\n"
        "option.quantize=AWQ\noption.max_rolling_batch_prefill_tokens=8192",
        backend="vllm",
        workers=1,
        options={"quantize": "awq", "max_rolling_batch_prefill_tokens": "8192"},
    ),
    "vllm: the names of later versions": Sample(
        file="engine=Python\noption.model_id={model}\noption.async_mode=true\noption.rolling_batch=disable\n"
        "option.entryPoint=djl_python.lmi_vllm.vllm_async_service\noption.tensor_parallel_degree=max\n"
        "option.max_num_seqs=32\noption.enable_auto_tool_choice=true\noption.tool_call_parser=llama3_json",
        backend="vllm",
        workers=1,
        options={"tensor_parallel_degree": "4", "max_rolling_batch_size": "32", "tool_call_parser": "llama3_json"},
    ),
    # ------------------------------------------------------------------------------------------ LMI-Dist
    "lmi-dist: a small file": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=lmi-dist\noption.tensor_parallel_degree=4\n"
        "option.max_rolling_batch_size=64\noption.max_rolling_batch_prefill_tokens=1088\noption.dtype=fp16",
        backend="lmi-dist",
        mode="core-mpi",
        workers=1,
        options={"max_rolling_batch_size": "64", "max_rolling_batch_prefill_tokens": "1088", "dtype": "fp16"},
    ),
    "lmi-dist: engine=MPI and auto": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=auto\noption.tensor_parallel_degree=2\n"
        "option.quantize=gptq\noption.entryPoint=djl_python.huggingface",
        image=LMI_IMAGE,
        backend="lmi-dist",
        mode="core-mpi",
        workers=2,
        options={"quantize": "gptq", "max_rolling_batch_size": "256"},
    ),
    "lmi-dist: all devices under engine=MPI": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=lmi-dist",
        model_type="gpt_neox",
        backend="lmi-dist",
        mode="core-mpi",
        workers=1,
        options={"tensor_parallel_degree": "4"},
    ),
    "lmi-dist: a draft model": Sample(
        file="engine=MPI\noption.model_id={model}\noption.rolling_batch=lmi-dist\noption.tensor_parallel_degree=4\n"
        "option.speculative_draft_model=s3://bucket/draft/\noption.speculative_length=4\noption.draft_model_tp_size=4\n"
        "option.record_acceptance_rate=true",
        backend="lmi-dist",
        mode="core-mpi",
        workers=1,
        options={"speculative_draft_model": "s3://bucket/draft/", "speculative_length": "4"},
    ),
    # ------------------------------------------------------------------------------------------ DeepSpeed
    "deepspeed: its old engine": Sample(
        file="engine=DeepSpeed\noption.model_id={model}\noption.tensor_parallel_degree=4\noption.dtype=bf16\n"
        "option.task=text-generation\noption.max_tokens=2048",
        model_type="gptj",
        backend="deepspeed",
        mode="core-mpi",
        workers=1,
        options={"dtype": "bf16", "task": "text-generation", "max_tokens": "2048", "max_rolling_batch_size": "4"},
        warnings=frozenset({"config.deprecated"}),
    ),
    "deepspeed: engine=MPI and the entry point": Sample(
        file="engine=MPI\noption.entryPoint=djl_python.deepspeed\noption.model_id={model}\n"
        "option.tensor_parallel_degree=2\noption.rolling_batch=deepspeed\noption.max_rolling_batch_size=8\n"
        "option.quantize=smoothquant\noption.smoothquant_alpha=0.75\noption.dtype=fp16",
        model_type="bloom",
        backend="deepspeed",
        mode="core-mpi",
        workers=2,
        options={"quantize": "smoothquant", "smoothquant_alpha": "0.75", "max_rolling_batch_size": "8"},
    ),
    "deepspeed: auto behind its entry point": Sample(
        file="engine=MPI\noption.entryPoint=djl_python.deepspeed\noption.model_id={model}\noption.rolling_batch=auto\n"
        "option.tensor_parallel_degree=4\noption.enable_cuda_graph=false\noption.low_cpu_mem_usage=true\n"
        "option.triangular_masking=true\noption.return_tuple=true\noption.training_mp_size=1",
        model_type="opt",
        backend="deepspeed",
        mode="core-mpi",
        workers=1,
        options={"enable_cuda_graph": "false"},
    ),
    # ------------------------------------------------------------------------------------------ HF Accelerate
    "hf: the scheduler": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=scheduler\noption.tensor_parallel_degree=1\n"
        "option.max_rolling_batch_size=8\noption.decoding_strategy=greedy\noption.max_sparsity=0.33\n"
        "option.max_splits=3\noption.disable_flash_attn=true",
        backend="hf",
        workers=4,
        options={"max_rolling_batch_size": "8", "decoding_strategy": "greedy"},
    ),
    "hf: 8 bits in the old way, over all devices": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=scheduler\noption.tensor_parallel_degree=4\n"
        "option.device_map=auto\noption.load_in_8bit=TRUE\noption.task=text-generation",
        backend="hf",
        workers=1,
        options={"device_map": "auto", "load_in_8bit": "true", "task": "text-generation"},
        warnings=frozenset({"config.deprecated"}),
    ),
    "hf: 4 bits": Sample(
        file="engine=Python\noption.model_id={model}\noption.rolling_batch=scheduler\noption.tensor_parallel_degree=2\n"
        "option.quantize=bitsandbytes4\noption.dtype=fp16\noption.low_cpu_mem_usage=true",
        backend="hf",
        workers=2,
        options={"quantize": "bitsandbytes4", "dtype": "fp16"},
    ),
    # ------------------------------------------------------------------------------------------ Transformers-NeuronX
    "neuronx: whole batches": Sample(
        file="engine=Python\noption.entryPoint=djl_python.transformers_neuronx\noption.model_id={model}\nbatch_size=4\n"
        "option.rolling_batch=disable\noption.tensor_parallel_degree=2\noption.n_positions=512\noption.dtype=fp16\n"
        "option.neuron_optimize_level=2\noption.load_in_8bit=true\noption.context_length_estimate=256,512",
        model_type="opt",
        devices="neuron:2",
        backend="neuronx",
        workers=1,
        options={"n_positions": "512", "context_length_estimate": "[256, 512]", "load_in_8bit": "true"},
    ),
    "neuronx: split weights and a compiled graph": Sample(
        file="engine=Python\noption.entryPoint=djl_python.transformers_neuronx\noption.model_id={model}\n"
        "option.tensor_parallel_degree=12\noption.n_positions=2048\noption.max_rolling_batch_size=4\n"
        "option.load_split_model=true\noption.compiled_graph_path=s3://bucket/graph/\noption.quantize=static_int8\n"
        "option.group_query_attention=shard-over-heads\noption.rolling_batch=auto",
        devices="neuron:24",
        backend="neuronx",
        workers=2,
        options={"load_split_model": "true", "compiled_graph_path": "s3://bucket/graph/", "quantize": "static_int8"},
    ),
    "neuronx: the misspelt entry point": Sample(
        file="engine=Python\noption.entryPoint=djl_python.transformersneuronx\noption.model_id={model}\n"
        "option.tensor_parallel_degree=2",
        model_type="gpt_neox",
        devices="neuron:12",
        backend="neuronx",
        workers=6,
        options={"tensor_parallel_degree": "2"},
        warnings=frozenset({"config.deprecated"}),
    ),
    "neuronx: the name of later versions": Sample(
        file="option.model_id={model}\noption.rolling_batch=tnx\noption.tensor_parallel_degree=max\n"
        "option.model_loader=tnx\noption.fuse_qkv=true\noption.attention_layout=BSH\noption.all_reduce_dtype=bf16",
        devices="neuron:12",
        backend="neuronx",
        workers=1,
        options={"tensor_parallel_degree": "12", "attention_layout": "BSH", "all_reduce_dtype": "bfloat16"},
    ),
    # ------------------------------------------------------------------------------------------ other variables
    "the short variables": Sample(
        environ={
            "HF_MODEL_ID": "{model}",
            "OPTION_ROLLING_BATCH": "vllm",
            "TENSOR_PARALLEL_DEGREE": "max",
            "MAX_BATCH_SIZE": "48",
            "HF_MODEL_QUANTIZE": "gptq",
            "MAX_CONCURRENT_REQUESTS": "200",
        },
        backend="vllm",
        workers=1,
        options={"tensor_parallel_degree": "4", "max_rolling_batch_size": "48", "quantize": "gptq"},
    ),
}


def resolved(sample: Sample, folder: Path) -> Effective:
    """The one model that a start with this sample would serve."""
    (folder / "model").mkdir()
    model, store = str(folder / "model"), folder / "store"
    config = {
        "model_type": sample.model_type, "architectures": [ARCHITECTURES[sample.model_type]],
        "num_attention_heads": 48, "num_key_value_heads": 48, "hidden_size": 6144, "max_position_embeddings": 8192,
    }  # fmt: skip
    (folder / "model" / "config.json").write_text(json.dumps(config))
    if sample.file:
        store.mkdir()
        (store / "serving.properties").write_text(sample.file.replace("{model}", model) + "\n")
    environ = {name: value.replace("{model}", model) for name, value in sample.environ.items()}
    plugins = PLUGINS[sample.image]
    start = read_start(None, environ=environ, flags={}, default_folder=store)
    (entry,) = start.entries
    return effective(
        entry, flags={}, environ=environ, plugins=plugins, devices=sample.devices, default_folder=store,
        defaults=start.defaults,
    )  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_resolves_as_it_did(name: str, tmp_path: Path):
    sample = SAMPLES[name]
    found = resolved(sample, tmp_path)
    assert [str(each) for each in found.problems if each.severity is Severity.ERROR] == []
    assert found.choice is not None
    assert (found.choice.info.name, found.choice.info.launch.value) == (sample.backend, sample.mode)
    assert found.n_workers == sample.workers
    assert {key: found.options[f"option.{key}"].value for key in sample.options} == sample.options
    codes = {each.code for each in found.problems} - {NOT_BUILT_YET}
    assert codes == sample.warnings, [str(each) for each in found.problems]


def test_every_backend_with_a_configuration_of_lmi_has_samples():
    assert {sample.backend for sample in SAMPLES.values()} == set(PLUGINS[""].backends) - {"echo"}
