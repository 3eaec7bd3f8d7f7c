# SPDX-License-Identifier: Apache-2.0
"""lmi_deepspeed without its engine: what selects it, its options, their rules, and the problems found in a model."""

from __future__ import annotations

from typing import Any

import pytest

import lmi_deepspeed
from lmi.api import (
    Accelerator,
    ArtifactFormat,
    ConfigError,
    ModelArtifacts,
    Problem,
    Severity,
    Target,
)
from lmi.config import Parsed, parse, read_settings
from lmi.plugins import Plugins
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_deepspeed.contract import CASE
from tests.backends.placing import placed
from tests.backends.static_lane import STATIC_RULES, keep, kit_of

CPU = Target()
CUDA = Target(accelerator=Accelerator.CUDA, n_devices=4, device_memory_bytes=80 << 30)


def read(folder: Any, lines: str) -> Parsed:
    """What serving.properties with these lines, divided by blanks, means."""
    (folder / "serving.properties").write_text("\n".join(f"option.{line}" for line in lines.split()))
    settings = read_settings(model_folder=folder, environ={}, flags={})
    return parse(settings, lmi_deepspeed.lmi_describe_backend(), DeepSpeedConfig, {})


def model(model_type: str = "llama", **config: Any) -> ModelArtifacts:
    return ModelArtifacts(
        format=ArtifactFormat.PRETRAINED,
        config={"model_type": model_type, "num_attention_heads": 4, **config},
        architectures=("LlamaForCausalLM",),
        model_type=model_type,
        max_context_tokens=512,
    )


def problems(artifacts: ModelArtifacts, target: Target = CUDA, **options: Any) -> list[Problem]:
    found = lmi_deepspeed.lmi_validate_artifacts(artifacts, DeepSpeedConfig(**options), target)
    return placed(found, DeepSpeedConfig)


@pytest.fixture(scope="module")
def kit():
    with kit_of(CASE) as kit:
        yield kit


@pytest.mark.parametrize("rule_id", STATIC_RULES)
def test_the_static_rules_of_the_contract_hold(rule_id, kit):
    keep(rule_id, kit)


@pytest.mark.parametrize(
    "flags",
    [
        {"rolling_batch": "deepspeed"},
        {"rolling_batch": "DeepSpeed"},
        {"engine": "DeepSpeed"},
        {"entryPoint": "djl_python.deepspeed"},
        {"entryPoint": "djl_python.deepspeed", "engine": "MPI", "rolling_batch": "auto"},
        {"entryPoint": "djl_python.deepspeed", "engine": "MPI", "rolling_batch": "disable"},
        {"engine": "MPI", "rolling_batch": "deepspeed"},
    ],
)
def test_what_selects_it(flags):
    settings = read_settings(model_folder=None, environ={}, flags=flags)
    choice = Plugins.discover({"LMI_EXTENSIONS": ""}).choose(settings, model(), CUDA)
    assert (choice.info.name, choice.warnings) == ("deepspeed", ())


@pytest.mark.parametrize("target", [CPU, CUDA])
def test_nothing_selects_it_by_chance(target):
    settings = read_settings(model_folder=None, environ={}, flags={})
    assert Plugins.discover({"LMI_EXTENSIONS": ""}).choose(settings, model(), target).info.name != "deepspeed"


DEFAULTS = {
    "max_rolling_batch_size": 4, "tensor_parallel_degree": 1, "trust_remote_code": False, "dtype": "auto", "task": None,
    "quantize": None, "smoothquant_alpha": None, "max_tokens": 1024, "low_cpu_mem_usage": True,
    "enable_cuda_graph": False, "triangular_masking": True, "return_tuple": True, "training_mp_size": 1,
    "checkpoint": None, "save_mp_checkpoint_path": None, "deepspeed_config_path": None,
}  # fmt: skip


def test_the_defaults_are_those_of_the_reference():
    assert DeepSpeedConfig().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_option_set_to_its_default_changes_nothing(name, tmp_path):
    default = DEFAULTS[name]
    parsed = read(tmp_path, f"{name}={'none' if default is None else str(default).lower()}")
    assert (parsed.config.model_dump(), parsed.warnings) == (DEFAULTS, [])
    assert problems(model(), CPU, **{name: default}) == problems(model("falcon"), **{name: default}) == []


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("dtype=FP16", "dtype", "fp16"),
        ("dtype=float16", "dtype", "fp16"),
        ("dtype=Half", "dtype", "fp16"),
        ("dtype=bfloat16", "dtype", "bf16"),
        ("dtype=Float32", "dtype", "fp32"),
        ("dtype=AUTO", "dtype", "auto"),
        ("task=text-generation", "task", "text-generation"),
        ("task=Fill-Mask", "task", "fill-mask"),
        ("task=text-classification", "task", "text-classification"),
        ("task=question-answering", "task", "question-answering"),
        ("task=token-classification", "task", "token-classification"),
        ("task=conversational", "task", "conversational"),
        ("task=text2text-generation", "task", "text2text-generation"),
        ("quantize=SmoothQuant", "quantize", "smoothquant"),
        ("quantize=dynamic_int8", "quantize", "dynamic_int8"),
        ("quantize=none", "quantize", None),
        ("max_tokens=2048", "max_tokens", 2048),
        ("max_out_tokens=2048", "max_tokens", 2048),
        ("low_cpu_mem_usage=true", "low_cpu_mem_usage", True),
        ("enable_cuda_graph=False", "enable_cuda_graph", False),
        ("triangular_masking=True", "triangular_masking", True),
        ("return_tuple=true", "return_tuple", True),
        ("training_mp_size=1", "training_mp_size", 1),
        ("checkpoint=ds_inference_config.json", "checkpoint", "ds_inference_config.json"),
        ("save_mp_checkpoint_path=/data/out", "save_mp_checkpoint_path", "/data/out"),
        ("deepspeed_config_path=ds.json", "deepspeed_config_path", "ds.json"),
        ("max_rolling_batch_size=64", "max_rolling_batch_size", 64),
        ("tensor_parallel_degree=2", "tensor_parallel_degree", 2),
    ],
)
def test_an_option_is_typed(line, name, value, tmp_path):
    parsed = read(tmp_path, line)
    assert (getattr(parsed.config, name), parsed.warnings) == (value, [])


@pytest.mark.parametrize(
    "lines",
    [
        "quantize=smoothquant",
        "quantize=smoothquant dtype=fp16",
        "quantize=smoothquant dtype=fp32",
        "quantize=smoothquant smoothquant_alpha=0",
        "quantize=smoothquant smoothquant_alpha=1",
        "quantize=dynamic_int8 dtype=bf16",
        "checkpoint=a.json dtype=fp16",
        "deepspeed_config_path=ds.json dtype=fp16 max_tokens=1024 triangular_masking=true",
    ],
)
def test_what_goes_together(lines, tmp_path):
    assert read(tmp_path, lines).warnings == []


@pytest.mark.parametrize(
    ("lines", "code", "said", "n_sources"),
    [
        ("quantize=smoothquant dtype=bf16", "config.conflict", "smoothquant does not go with dtype=bf16", 2),
        ("quantize=SMOOTHQUANT data_type=bfloat16", "config.conflict", "does not go with dtype=bf16", 2),
        ("smoothquant_alpha=1.5 quantize=smoothquant", "config.invalid-value", "at most 1", 1),
        ("smoothquant_alpha=-0.1", "config.invalid-value", "at least 0", 1),
        (
            "checkpoint=a.json quantize=dynamic_int8",
            "config.conflict",
            "checkpoint=a.json does not go with quantize",
            2,
        ),
        ("checkpoint=a.json quantize=smoothquant", "config.conflict", "does not go with quantize=smoothquant", 2),
        ("enable_cuda_graph=true", "config.conflict", "a recorded graph has one number of sequences", 1),
        ("save_mp_checkpoint_path=s3://bucket/out", "config.conflict", "is not a folder", 1),
        ("dtype=int8", "config.conflict", "option.quantize=dynamic_int8", 1),
        ("dtype=fp8", "config.invalid-value", "Choices: auto, bf16, fp16, fp32", 1),
        ("task=fil-mask", "config.invalid-value", "Did you mean 'fill-mask'", 1),
        ("max_tokens=0", "config.invalid-value", "at least 1 (tokens)", 1),
        ("training_mp_size=0", "config.invalid-value", "at least 1 (devices)", 1),
        ("max_rolling_batch_size=0", "config.invalid-value", "at least 1", 1),
        ("low_cpu_mem_usage=maybe", "config.invalid-value", "true or false", 1),
        ("smooth_quant_alpha=0.5", "config.unknown-key", "Did you mean 'option.smoothquant_alpha'", 1),
    ],
)
def test_what_is_refused(lines, code, said, n_sources, tmp_path):
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, lines)
    (problem,) = raised.value.problems
    assert (problem.code, problem.severity) == (code, Severity.ERROR)
    assert said in str(problem)
    assert problem.source.count("serving.properties:") == n_sources


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ("quantize=smothquant", "config.no-effect", "Did you mean 'smoothquant'"),
        ("quantize=awq", "config.no-effect", "awq is no method of deepspeed and is left out"),
        ("smoothquant_alpha=0.5", "config.no-effect", "does nothing: quantize is unset"),
        ("smoothquant_alpha=0.5 quantize=dynamic_int8", "config.no-effect", "quantize is dynamic_int8"),
        ("data_type=fp16", "config.deprecated", "'option.data_type' is an old name of 'option.dtype'"),
        ("deepspeed_config_path=ds.json max_tokens=2048", "config.no-effect", "max_tokens does nothing"),
        (
            "triangular_masking=false",
            "config.no-effect",
            "triangular_masking=False does nothing: it is for DeepSpeed's",
        ),
        ("return_tuple=false", "config.no-effect", "return_tuple=False does nothing"),
        ("training_mp_size=2", "config.no-effect", "training_mp_size=2 does nothing"),
        ("low_cpu_mem_usage=false", "config.no-effect", "never makes a second copy"),
        ("deepspeed_config_path=ds.json checkpoint=a.json", "config.no-effect", "checkpoint does nothing"),
        ("deepspeed_config_path=ds.json save_mp_checkpoint_path=/x", "config.no-effect", "path does nothing"),
    ],
)
def test_what_is_warned_about(lines, code, said, tmp_path):
    (warning,) = read(tmp_path, lines).warnings
    assert (warning.code, said in str(warning)) == (code, True), warning
    assert warning.source.count("serving.properties:") == (1 if code == "config.deprecated" else len(lines.split()))


def test_a_method_that_is_unknown_is_left_out():
    assert DeepSpeedConfig(quantize="awq").quantization is None
    assert DeepSpeedConfig(quantize="smoothquant").quantization == "smoothquant"


@pytest.mark.parametrize(
    ("artifacts", "target", "options"),
    [
        (model(), CUDA, {"quantize": "smoothquant"}),
        (model("gpt2"), CUDA, {"quantize": "smoothquant"}),
        (model("gpt_neo"), CUDA, {"quantize": "smoothquant"}),
        (model("gptj"), CUDA, {"quantize": "smoothquant"}),
        (model("gpt_neox"), CUDA, {"quantize": "smoothquant"}),
        (model("bloom"), CUDA, {"quantize": "smoothquant"}),
        (model("falcon"), CUDA, {"quantize": "dynamic_int8"}),
        (model(), CUDA, {"tensor_parallel_degree": 4, "checkpoint": "/opt/ml/model/a.json"}),
        (model(), CPU, {"checkpoint": "/opt/ml/model/a.json", "save_mp_checkpoint_path": "/x"}),
        (model(), CPU, {"tensor_parallel_degree": 3}),  # uneven parts are fine, and ranks are processes there
        (model("falcon"), CUDA, {}),  # without kernel injection its layers are split, and batched by the core
        (model(), CUDA, {"max_tokens": 512}),
        (model("falcon", auto_map={"AutoModelForCausalLM": "own.M"}), CUDA, {}),  # transformers has it now
        (model("baichuan", auto_map={"AutoModelForCausalLM": "own.M"}), CUDA, {"trust_remote_code": True}),
    ],
)
def test_what_suits_a_model(artifacts, target, options):
    assert problems(artifacts, target, **options) == []


@pytest.mark.parametrize(
    ("artifacts", "target", "options", "code", "said"),
    [
        (model("falcon"), CUDA, {"quantize": "smoothquant"}, "config.quantize", "the model is falcon"),
        (model(), CUDA, {"tensor_parallel_degree": 8}, "config.tensor-parallel", "the model has 4 attention heads"),
        (model("opt"), CUDA, {"quantize": "smoothquant"}, "config.quantize", "gpt2, gpt_neo, gptj, gpt_neox, bloom"),
        (
            model(quantization_config={"quant_method": "gptq"}), CUDA, {"quantize": "dynamic_int8"},
            "config.quantize", "already compressed with gptq",
        ),
        (model(), CPU, {"tensor_parallel_degree": 5}, "config.tensor-parallel", "4 attention heads"),
        (model("baichuan", auto_map={"AutoModel": "own.M"}), CUDA, {}, "model.remote-code", "'baichuan' runs Python"),
    ],
)  # fmt: skip
def test_what_stops_a_model(artifacts, target, options, code, said):
    found = problems(artifacts, target, **options)
    assert any(each.code == code and said in str(each) and each.hint for each in found), found
    assert all(each.severity is Severity.ERROR for each in found)


@pytest.mark.parametrize(
    ("target", "options", "code"),
    [
        (CUDA, {"max_tokens": 2048}, "config.max-tokens"),
    ],
)
def test_what_a_model_is_warned_about(target, options, code):
    (found,) = problems(model(), target, **options)
    assert (found.code, found.severity) == (code, Severity.WARNING)


def head(name: str, model_type: str = "bert", n_heads: int = 4, **config: Any) -> ModelArtifacts:
    """A model of the class that ends so."""
    config = {"model_type": model_type, "num_attention_heads": n_heads, "hidden_size": 64, **config}
    return ModelArtifacts(
        format=ArtifactFormat.PRETRAINED, config=config, architectures=(name,), model_type=model_type,
        max_context_tokens=512,
    )  # fmt: skip


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BertForSequenceClassification", None),
        ("BertForSequenceClassification", "auto"),
        ("BertForSequenceClassification", "text-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForMaskedLM", None),
        ("BertForPreTraining", "fill-mask"),
        ("BertForQuestionAnswering", "question-answering"),
    ],
)
def test_a_model_with_the_head_of_its_task_is_served_on_one_rank_and_on_two(name, task, n_ranks):
    assert problems(head(name), CPU, task=task, tensor_parallel_degree=n_ranks) == []


@pytest.mark.parametrize(
    ("artifacts", "options", "code", "said"),
    [
        (
            head("BertForSequenceClassification"), {"task": "fill-mask"}, "model.task-not-served",
            "BertForSequenceClassification has no head for it; it gives labels. Use a model whose class ends in "
            "ForMaskedLM",
        ),
        (model(), {"task": "question-answering"}, "model.task-not-served", "has no head for it; it generates text"),
        (
            head("GPTNeoXForMaskedLM", "gpt_neox"), {}, "model.architecture-not-served",
            "no ForMaskedLM for model_type 'gpt_neox'",
        ),
        (
            head("T5ForConditionalGeneration", "t5", is_encoder_decoder=True), {}, "model.task-not-served",
            "T5ForConditionalGeneration has an encoder and a decoder, and encoder-decoder models are not served: "
            "continuous batching steps decoders alone, and transformers 5 has no pipeline for them. No backend of LMI",
        ),
        (model(), {"task": "text2text-generation"}, "model.task-not-served", "task is text2text-generation, and enc"),
        (
            head("BertForMaskedLM", n_heads=3), {"tensor_parallel_degree": 2}, "config.tensor-parallel",
            "which does not divide the model's 3 attention heads",
        ),
        (
            head("BertForMaskedLM", intermediate_size=33), {"tensor_parallel_degree": 2}, "config.tensor-parallel",
            "33 feed-forward numbers",
        ),
        (
            head("ModernBertForMaskedLM", "modernbert"), {"tensor_parallel_degree": 2}, "config.tensor-parallel",
            "modernbert is not among the models that DeepSpeed is known to split for this task: albert, bert",
        ),
        (
            head("LlamaForSequenceClassification", "llama"), {"quantize": "smoothquant"}, "config.conflict",
            "the model gives labels; it is calibrated with models that generate text",
        ),
        (
            head("BertForMaskedLM"), {"save_mp_checkpoint_path": "/x"}, "config.conflict",
            "save_mp_checkpoint_path is /x, and the model fills masks",
        ),
    ],
)  # fmt: skip
def test_what_stops_a_task(artifacts, options, code, said):
    found = problems(artifacts, CPU, **options)
    assert any(each.code == code and said in str(each) and each.hint for each in found), found
