# SPDX-License-Identifier: Apache-2.0
"""lmi_hf without its engine: description, options, and the problems it finds in a model's files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import lmi_hf
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_hf import library
from lmi_hf.config import HFConfig
from tests.backends.placing import placed
from tests.limits import limit_s

CPU = Target()
CUDA = Target(accelerator=Accelerator.CUDA, n_devices=2, device_memory_bytes=80 << 30)


def llama(**changes: Any) -> ModelArtifacts:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **changes.pop("config", {})}
    fields: dict[str, Any] = {
        "folder": "/models/tiny",
        "format": ArtifactFormat.PRETRAINED,
        "config": config,
        "architectures": tuple(config["architectures"]),
        "model_type": config["model_type"],
        "max_context_tokens": 512,
    }
    return ModelArtifacts(**{**fields, **changes})


def lora(folder: str, **config: Any) -> ModelArtifacts:
    """A folder that is an adapter."""
    files = {"adapter_config.json": 600, "adapter_model.safetensors": 4000}
    documents = {"adapter_config.json": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, **config}}
    return ModelArtifacts(folder=folder, format=ArtifactFormat.ADAPTER, files=files, documents=documents)


def problems(artifacts: ModelArtifacts, target: Target = CPU, **options: Any) -> list[Problem]:
    return placed(lmi_hf.lmi_validate_artifacts(artifacts, HFConfig(**options), target), HFConfig)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def test_importing_describing_and_validating_imports_no_engine_library() -> None:
    script = """
import sys
import lmi_hf
from lmi.api import ModelArtifacts, Target
lmi_hf.lmi_describe_backend()
config = lmi_hf.lmi_config_type()()
lmi_hf.lmi_validate_artifacts(ModelArtifacts(model_type="llama"), config, Target())
print(sorted({"torch", "transformers", "accelerate", "peft", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=limit_s(60), check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_loading_without_the_engine_says_what_to_install() -> None:
    script = """
import sys
sys.modules["torch"] = None
import lmi_hf
from lmi.api import ModelArtifacts
try:
    lmi_hf.lmi_load_engine(ModelArtifacts(), lmi_hf.lmi_config_type()(), lambda stage, fraction=None: None)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=limit_s(60), check=False
    )
    assert done.stdout.startswith("EngineLoadError engine.not-installed: backend hf needs torch"), done
    assert "pip install" in done.stdout


def test_every_option_has_a_description_and_a_default() -> None:
    for name, field in HFConfig.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


@pytest.mark.parametrize(
    ("written", "meant"),
    [("BF16", "bf16"), ("bfloat16", "bf16"), ("half", "fp16"), ("float32", "fp32"), ("Auto", "auto")],
)
def test_dtype_is_known_by_all_its_names(written: str, meant: str) -> None:
    assert HFConfig(dtype=written).dtype == meant  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int8"},
        {"max_model_len": -1},
        {"n_threads": -2},
        {"omp_wait_policy": "sometimes"},
        {"quantize": "fp8"},
        {"tensor_paralel_degree": 2},
    ],
)
def test_values_out_of_bounds_and_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HFConfig(**options)


def test_old_names_of_quantization_mean_the_new_ones() -> None:
    assert HFConfig(load_in_8bit=True).quantization == "bitsandbytes8"
    assert HFConfig(load_in_4bit=True).quantization == "bitsandbytes4"
    assert HFConfig(quantize="bitsandbytes").quantization == "bitsandbytes8"
    assert HFConfig().quantization is None


def test_a_good_model_has_no_problems() -> None:
    assert problems(llama()) == []
    assert problems(llama(), CUDA, tensor_parallel_degree=2, device_map="auto") == []


def test_all_problems_are_found_at_once_and_each_has_a_hint() -> None:
    found = problems(llama(), tensor_parallel_degree=4, max_model_len=1024, device_map="cuda:1")
    assert [problem.code for problem in found] == [
        "config.tensor-parallel",
        "config.device-map",
        "config.max-model-len",
    ]
    assert all(problem.hint for problem in found)
    assert "max_model_len is 1024 tokens, the model takes 512" in found[2].message


def test_more_devices_than_there_are_is_left_to_the_core_which_names_the_source() -> None:
    assert problems(llama(), CUDA, tensor_parallel_degree=4) == []


def test_a_cuda_device_on_a_processor_is_refused() -> None:
    assert only(problems(llama(), device_map="cuda:0")).code == "config.device-map"


def test_a_model_that_does_not_continue_texts_is_refused_by_name() -> None:
    t5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    assert "T5ForConditionalGeneration has an encoder and a decoder" in only(problems(llama(config=t5))).message
    bert = {"model_type": "bert", "architectures": ["BertForMultipleChoice"]}
    assert only(problems(llama(config=bert))).code == "model.task-not-served"


def test_code_that_comes_with_a_model_needs_permission_unless_transformers_knows_the_model() -> None:
    own = {"model_type": "acme-lm", "architectures": ["AcmeForCausalLM"], "auto_map": {"AutoConfig": "acme.Config"}}
    problem = only(problems(llama(config=own)))
    assert (problem.code, problem.fields) == ("model.remote-code", ("trust_remote_code",))
    assert problems(llama(config=own), trust_remote_code=True) == []
    assert problems(llama(config={"auto_map": {"AutoConfig": "llama.Config"}})) == []


def test_a_missing_quantization_library_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "is_installed", lambda module: module in ("torch", "transformers"))
    problem = only(problems(llama(), CUDA, quantize="bitsandbytes8"))
    assert (problem.code, problem.hint) == ("engine.library-missing", "pip install bitsandbytes")
    assert problem.fields == ("quantize",)
    assert only(problems(llama(), CUDA, load_in_4bit=True)).fields == ("load_in_4bit",)
    gptq = llama(config={"quantization_config": {"quant_method": "gptq"}})
    problem = only(problems(gptq, quantize="gptq"))  # the checkpoint wants it, whatever the option says
    assert "quantization gptq needs the Python packages gptqmodel and optimum, which are not" in problem.message
    assert (problem.hint, problem.fields) == ("pip install 'lmi-hf[gptq]'", ())


def test_libraries_are_not_judged_where_the_engine_runs_under_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "is_installed", lambda module: False)
    assert problems(llama(), CUDA, quantize="bitsandbytes8") == []


@pytest.mark.parametrize("options", [{"quantize": "bitsandbytes4"}, {"load_in_8bit": True}])
def test_bitsandbytes_off_a_gpu_needs_a_device_map(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "is_installed", lambda module: True)
    problem = only(problems(llama(), **options))
    assert (problem.code, "needs a device map" in problem.message) == ("config.device-map", True)
    assert "option.device_map=cpu" in problem.hint
    assert problems(llama(), device_map="cpu", **options) == []
    assert problems(llama(), CUDA, **options) == []  # the devices of a copy are its map


def test_contradicting_quantizations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "is_installed", lambda module: True)
    gptq = llama(config={"quantization_config": {"quant_method": "gptq"}})
    assert "quantize is awq, but the checkpoint is compressed with gptq" in only(problems(gptq, quantize="awq")).message
    assert only(problems(llama(), quantize="gptq")).code == "model.not-quantized"
    assert problems(llama(), CUDA, quantize="bitsandbytes8") == []


def test_an_adapter_must_find_its_base_and_agree_with_is_peft_model(tmp_path: Path) -> None:
    adapter = lora(str(tmp_path / "."), base_model_name_or_path="../base")
    assert only(problems(adapter)).code == "adapter.base-missing"
    (tmp_path.parent / "base").mkdir()
    assert problems(adapter) == []
    assert only(problems(adapter, is_peft_model=False)).code == "config.is-peft-model"
    assert only(problems(llama(), is_peft_model=True)).code == "config.is-peft-model"


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "adapter.not-supported", "PREFIX_TUNING, which cannot be merged"),
        ({"task_type": "SEQ_CLS"}, "model.task-not-served", "trained for SEQ_CLS"),
        ({"r": 0}, "adapter.rank", "has the rank 0"),
        ({"base_model_name_or_path": "/nowhere/base"}, "adapter.base-missing", "/nowhere/base, which is not there"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(config: dict[str, Any], code: str, said: str) -> None:
    found = problems(lora("/models/adapter", **{"base_model_name_or_path": "org/base", **config}))
    problem = only([each for each in found if each.severity is Severity.ERROR])
    assert (problem.code, said in problem.message) == (code, True), problem
    assert problem.hint


@pytest.mark.parametrize("config", [{}, {"peft_type": "LOHA", "r": None}, {"task_type": "CAUSAL_LM"}])
@pytest.mark.parametrize("place", ["/models/adapter", "s3://models/adapter"])
def test_of_an_adapter_that_can_be_merged_only_a_base_on_the_hub_is_told(place: str, config: dict[str, Any]) -> None:
    warning = only(problems(lora(place, **{"base_model_name_or_path": "org/base", **config})))
    assert (warning.code, warning.severity) == ("adapter.base-not-checked", Severity.WARNING)
    assert "org/base was not looked at" in warning.message


def test_a_base_is_looked_for_on_this_machine_when_the_adapter_is_elsewhere(tmp_path: Path) -> None:
    assert problems(lora("s3://models/adapter", base_model_name_or_path=str(tmp_path))) == []
    problem = only(problems(lora("s3://models/adapter", base_model_name_or_path=str(tmp_path / "absent"))))
    assert (problem.code, "absent, which is not there" in problem.message) == ("adapter.base-missing", True)
    problem = only(problems(lora("s3://models/adapter", base_model_name_or_path="../base")))
    assert (problem.code, "relative to a folder" in problem.message) == ("adapter.base-missing", True)


def test_adapters_beside_a_model_are_said_to_be_left_alone() -> None:
    files = {"adapters/fr/adapter_config.json": 600, "adapters/de/adapter_config.json": 600}
    warning = only(problems(llama(files=files)))
    assert (warning.code, warning.severity) == ("adapter.not-served", Severity.WARNING)
    assert "2 adapters in adapters/ (de, fr)" in warning.message


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ({"model_type": "lama"}, "model.architecture-not-served", "Is it 'llama'?"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "model.task-not-served", "ViTModel does not"),
        ({"model_type": "vit", "architectures": []}, "model.task-not-served", "model_type 'vit'"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "model.task-not-served", "BertModel does not"),
        ({"quantization_config": {"quant_method": "exl2"}}, "model.quantization-not-served", "does not read that"),
    ],
)
def test_the_installed_transformers_is_asked_what_it_knows(config: dict[str, Any], code: str, said: str) -> None:
    problem = only(problems(llama(config=config)))
    assert (problem.code, said in str(problem)) == (code, True), problem


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "glm", "architectures": ["ChatGLMModel"], "auto_map": {"AutoModelForCausalLM": "own.Model"}},
    ],
)
def test_a_class_that_is_called_a_model_may_have_a_head(config: dict[str, Any]) -> None:
    assert problems(llama(config=config)) == []


def test_a_model_of_another_kind_is_served_by_its_own_class_for_texts() -> None:
    own = {"model_type": "vit", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    assert problems(llama(config=own), trust_remote_code=True) == []


def test_a_compression_that_only_a_file_beside_config_json_tells_is_not_seen_by_transformers() -> None:
    beside = llama(documents={"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}})
    problem = only(problems(beside))
    assert (problem.code, "compressed with modelopt" in problem.message) == ("model.quantization-not-served", True)


@pytest.mark.long
def test_the_lists_read_from_the_sources_of_transformers_are_those_it_has() -> None:
    script = """
from lmi_hf import library
ours = library.model_types(), library.causal_types(), library.quantization_methods()
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
theirs = CONFIG_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AUTO_QUANTIZATION_CONFIG_MAPPING
print([sorted(mine - set(other)) for mine, other in zip(ours, theirs)], [len(mine) > 10 for mine in ours])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=limit_s(120),
        check=False,
    )
    assert done.stdout.strip() == "[[], [], []] [True, True, True]", done.stderr
