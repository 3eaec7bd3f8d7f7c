# SPDX-License-Identifier: Apache-2.0
"""The neuronx backend and a model: what suits it, what selects it, and the contract without its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lmi_neuronx
from lmi.api import (
    Accelerator,
    ArtifactFormat,
    EngineLoadError,
    ModelArtifacts,
    Problem,
    Severity,
    Target,
)
from lmi.config import Parsed, parse, read_settings
from lmi.config.typed import keys_of
from lmi.loading import load_engine
from lmi.plugins import Plugins
from lmi.testing.kit import Kit
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.contract import CASE
from tests.backends.placing import placed
from tests.backends.static_lane import STATIC_RULES, keep, kit_of

INFO = lmi_neuronx.lmi_describe_backend()
NEURON = Target(accelerator=Accelerator.NEURON, n_devices=12)
NOTHING = lambda stage, fraction=None: None  # noqa: E731


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Parsed:
    """The typed configuration of a serving.properties; ``;`` separates its lines."""
    (tmp_path / "serving.properties").write_text("\n".join(text.split(";")), "utf-8")
    return parse(read_settings(model_folder=tmp_path, environ=environ or {}, flags={}), INFO, NeuronxConfig, {})


# ------------------------------------------------------------------------------------------- what the model decides


def model(family: str = "llama", **config: Any) -> ModelArtifacts:
    names = {
        "llama": "LlamaForCausalLM", "bloom": "BloomForCausalLM", "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM", "gptj": "GPTJForCausalLM", "gpt_bigcode": "GPTBigCodeForCausalLM",
        "falcon": "FalconForCausalLM", "gpt_neox": "GPTNeoXForCausalLM",
    }  # fmt: skip
    return ModelArtifacts(
        folder=config.pop("folder", ""),
        format=ArtifactFormat.PRETRAINED,
        config={"model_type": family, "num_attention_heads": 8, **config},
        architectures=(names[family],),
        model_type=family,
        max_context_tokens=config.pop("limit", 4096),
    )


def problems(artifacts: ModelArtifacts, **options: Any) -> list[Problem]:
    """What is wrong; that these models are compiled at the start is another matter."""
    found = placed(lmi_neuronx.lmi_validate_artifacts(artifacts, NeuronxConfig(**options), NEURON), NeuronxConfig)
    return [each for each in found if each.code != "engine.compiles-at-start"]


OF_THE_MODEL = [
    (model("falcon"), {}, "model.architecture-not-served"),
    (model("gpt_bigcode", activation_function="relu"), {}, "model.architecture-not-served"),
    (model("qwen2"), {"fuse_qkv": True}, "config.model-loader"),
    (model("qwen2"), {"model_loader": "tnx"}, "config.model-loader"),
    (model("gptj"), {"model_loader": "optimum"}, "config.model-loader"),
    (model("gptj"), {"partition_schema": "optimum"}, "config.model-loader"),
    (model("bloom"), {"rolling_batch_strategy": "continuous_batching"}, "config.rolling-batch-strategy"),
    (model("llama"), {"context_length_estimate": (64, 128)}, "config.context-length-estimate"),
    (model("mistral"), {"context_length_estimate": (64,)}, "config.context-length-estimate"),
    (model(limit=1024), {"n_positions": 2048}, "config.n-positions"),
    (model(quantization_config={"quant_method": "awq"}), {}, "model.quantization-not-served"),
    (model(compression_config={"quant_method": "compressed-tensors"}), {}, "model.quantization-not-served"),
    (model(), {"compiled_graph_path": "no-such-folder"}, "config.compiled-graph"),
]


@pytest.mark.parametrize(("artifacts", "options", "code"), OF_THE_MODEL)
def test_what_a_model_does_not_take_is_refused(artifacts: ModelArtifacts, options: dict[str, Any], code: str) -> None:
    (problem,) = problems(artifacts, **options)
    assert (problem.code, problem.severity) == (code, Severity.ERROR)
    assert problem.hint


@pytest.mark.parametrize(
    ("artifacts", "options", "code", "first"),
    [
        (model(limit=64), {}, "config.n-positions", "n_positions"),
        (model("bloom"), {"model_loader": "optimum"}, "config.model-loader", "model_loader"),
        (
            model(), {"group_query_attention": "shard-over-heads"}, "config.no-effect", "group_query_attention",
        ),
    ],
)  # fmt: skip
def test_what_stops_no_model_is_a_warning(
    artifacts: ModelArtifacts, options: dict[str, Any], code: str, first: str
) -> None:
    (problem,) = problems(artifacts, **options)
    assert (problem.code, problem.severity, problem.fields[0]) == (code, Severity.WARNING, first)


@pytest.mark.parametrize(
    ("artifacts", "options"),
    [
        *((model(family), {}) for family in ("llama", "bloom", "mistral", "gptj", "gpt_bigcode", "qwen2")),
        (model(), {"context_length_estimate": (128,)}),
        (model(), {"context_length_estimate": (64,), "rolling_batch": "disable"}),
        (model("bloom"), {"context_length_estimate": (64,)}),
        (model("llama"), {"rolling_batch_strategy": "continuous_batching"}),
        (model("qwen2"), {"model_loader": "optimum"}),
        (model(num_key_value_heads=2), {"group_query_attention": "shard-over-heads"}),
    ],
)
def test_what_suits_has_no_problems(artifacts: ModelArtifacts, options: dict[str, Any]) -> None:
    assert problems(artifacts, **options) == []


# ---------------------------------------------------------------------------------------------- the plugin as a whole

TEMPLATE = (
    "engine=Python;option.tensor_parallel_degree=4;option.model_id=org/model;"
    "option.entryPoint=djl_python.transformers_neuronx;option.max_rolling_batch_size=8;option.rolling_batch=auto;"
    "option.model_loading_timeout=1600"
)


def plugins() -> Plugins:
    return Plugins.discover({"LMI_EXTENSIONS": ""})


def test_the_template_of_the_guide_selects_neuronx(tmp_path: Path) -> None:
    found = read(tmp_path, TEMPLATE)
    assert found.warnings == []
    assert isinstance(found.config, NeuronxConfig)
    assert (found.config.tensor_parallel_degree, found.config.compiled_batch_size) == (4, 8)
    settings = read_settings(model_folder=tmp_path, environ={}, flags={})
    choice = plugins().wanted(settings, NEURON)
    assert choice is not None
    assert (choice.info.name, choice.warnings) == ("neuronx", ())


@pytest.mark.parametrize(
    "flags",
    [
        {"rolling_batch": "neuronx"},
        {"rolling_batch": "tnx"},
        {"rolling_batch": "TNX", "engine": "Python"},
        {"entryPoint": "djl_python.transformers_neuronx"},
        {"entryPoint": "djl_python.transformersneuronx"},
        {"rolling_batch": "disable", "entryPoint": "djl_python.transformers_neuronx"},
    ],
)
def test_it_answers_to_its_names(flags: dict[str, str]) -> None:
    choice = plugins().wanted(read_settings(model_folder=None, environ={}, flags=flags), NEURON)
    assert choice is not None
    assert choice.info.name == "neuronx"


def test_a_neuron_machine_chooses_it_by_itself() -> None:
    settings = read_settings(model_folder=None, environ={}, flags={"rolling_batch": "auto", "engine": "Python"})
    assert plugins().choose(settings, model("bloom"), NEURON).info.name == "neuronx"


def test_without_the_engine_a_load_says_how_to_install_it() -> None:
    with pytest.raises(EngineLoadError, match="AWS Neuron SDK") as caught:
        load_engine(plugins(), "neuronx", model(), NeuronxConfig().model_dump(mode="json"), NOTHING)
    assert caught.value.code == "engine.not-installed"


def test_names_of_options_are_unique() -> None:
    names = [name for each in NeuronxConfig.model_fields.values() for name in _further(each.json_schema_extra)]
    assert len(keys_of(NeuronxConfig)) == len(NeuronxConfig.model_fields) + len(names)


def _further(extra: Any) -> list[str]:
    return [*extra["aliases"], *extra["old_names"]]


@pytest.fixture(scope="module")
def kit() -> Any:
    with kit_of(CASE) as kit:
        yield kit


@pytest.mark.parametrize("rule_id", STATIC_RULES)
def test_it_keeps_the_contract_before_there_is_an_engine(rule_id: str, kit: Kit) -> None:
    keep(rule_id, kit)


@pytest.mark.parametrize(
    ("artifacts", "options", "code", "severity"),
    [
        (model("qwen2"), {"unroll": 2}, "config.no-effect", Severity.WARNING),
        (model("qwen2"), {"neuron_optimize_level": 3}, "config.no-effect", Severity.WARNING),
        (
            model(num_key_value_heads=2),
            {"model_loader": "optimum", "group_query_attention": "shard-over-heads"},
            "config.no-effect",
            Severity.WARNING,
        ),
        (model("gptj"), {"context_length_estimate": (64,)}, "config.no-effect", Severity.WARNING),
        (model("gptj"), {"on_device_generation": {"top_k": 1}}, "config.no-effect", Severity.WARNING),
        (model("gpt_neox"), {"quantize": "static_int8"}, "config.conflict", Severity.ERROR),
        (model("gpt_neox"), {"load_in_8bit": True}, "config.conflict", Severity.ERROR),
        (model("gpt_neox"), {"unroll": 2}, "config.conflict", Severity.ERROR),
    ],
)
def test_options_that_the_library_does_not_read_for_a_model_are_named(
    artifacts: ModelArtifacts, options: dict[str, Any], code: str, severity: Severity
) -> None:
    (problem,) = problems(artifacts, **options)
    assert (problem.code, problem.severity, set(problem.fields)) == (code, severity, set(options) - {"model_loader"})
