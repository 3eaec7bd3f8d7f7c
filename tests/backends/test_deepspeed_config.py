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
    EngineLoadError,
    ModelArtifacts,
    Problem,
    Ranks,
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
        ("low_cpu_mem_usage=false", "low_cpu_mem_usage", False),
        ("enable_cuda_graph=True", "enable_cuda_graph", True),
        ("triangular_masking=False", "triangular_masking", False),
        ("return_tuple=false", "return_tuple", False),
        ("training_mp_size=2", "training_mp_size", 2),
        ("checkpoint=ds_inference_config.json", "checkpoint", "ds_inference_config.json"),
        ("save_mp_checkpoint_path=s3://bucket/out", "save_mp_checkpoint_path", "s3://bucket/out"),
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
        "enable_cuda_graph=true tensor_parallel_degree=1",
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
        ("enable_cuda_graph=true tensor_parallel_degree=2", "config.conflict", "tensor_parallel_degree=2", 2),
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
        ("deepspeed_config_path=ds.json enable_cuda_graph=true", "config.no-effect", "enable_cuda_graph does nothing"),
        ("deepspeed_config_path=ds.json triangular_masking=false", "config.no-effect", "triangular_masking does"),
        ("deepspeed_config_path=ds.json return_tuple=false", "config.no-effect", "return_tuple does nothing"),
        ("deepspeed_config_path=ds.json training_mp_size=2", "config.no-effect", "training_mp_size does nothing"),
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
        (model(), CUDA, {"tensor_parallel_degree": 4, "training_mp_size": 2, "checkpoint": "/opt/ml/model/a.json"}),
        (model(), CPU, {"tensor_parallel_degree": 3}),  # uneven parts are fine, and ranks are processes there
        (model("falcon"), CUDA, {}),  # without kernel injection its layers are split, and batched by the core
        (model(), CUDA, {"max_tokens": 512, "enable_cuda_graph": True}),
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
        (model(), CPU, {"enable_cuda_graph": True}, "config.cuda-only", "meant for cpu"),
        (model(), CPU, {"checkpoint": "/x/a.json"}, "config.kernel-injection", "they run on cuda only"),
        (model("falcon"), CUDA, {"checkpoint": "/x/a.json"}, "config.kernel-injection", "none for model type falcon"),
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
        (CPU, {"training_mp_size": 2}, "config.no-effect"),
        (CPU, {"triangular_masking": False}, "config.no-effect"),
        (CPU, {"return_tuple": False}, "config.no-effect"),
        (CPU, {"save_mp_checkpoint_path": "/x"}, "config.no-effect"),
    ],
)
def test_what_a_model_is_warned_about(target, options, code):
    (found,) = problems(model(), target, **options)
    assert (found.code, found.severity) == (code, Severity.WARNING)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantize": "dynamic_int8"}, "quantize=dynamic_int8"),
        ({"task": "fill-mask"}, "task=fill-mask"),
        ({"checkpoint": "ds.json"}, "checkpoint=ds.json"),
        ({"save_mp_checkpoint_path": "/x", "enable_cuda_graph": True}, "enable_cuda_graph=True, save_mp_checkpoint"),
    ],
)
def test_what_is_not_done_yet_is_refused_by_name_when_the_model_is_loaded(options, said):
    pytest.importorskip("transformers")
    from lmi_deepspeed.engine import load_stepper

    with pytest.raises(EngineLoadError, match=rf"engine\.not-implemented: deepspeed does not do this yet: .*{said}"):
        load_stepper(model(), DeepSpeedConfig(**options), Ranks(), 1, lambda stage, fraction=None: None)
