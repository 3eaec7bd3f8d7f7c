# SPDX-License-Identifier: Apache-2.0
"""What stops a model on lmi-dist, and what it is warned of, as its files and the options tell."""

from __future__ import annotations

import msgspec
import pytest

from lmi.api import ArtifactFormat, ModelArtifacts, Severity
from lmi_hf import library
from tests.backends.dist_models import CPU, CUDA, compressed, model, problems


@pytest.fixture(autouse=True)
def all_packages(monkeypatch):
    """What a model needs is installed."""
    monkeypatch.setattr(library, "is_installed", lambda module: True)


@pytest.mark.parametrize(
    ("artifacts", "target", "options"),
    [
        (model(), CUDA, {"tensor_parallel_degree": 4}),
        (model(), CPU, {"tensor_parallel_degree": 2}),
        (model(), CUDA, {"max_model_len": 512}),
        (compressed("awq"), CUDA, {"quantize": "awq"}),
        (compressed("gptq"), CUDA, {}),
        (compressed("awq"), CPU, {}),
        (ModelArtifacts(format=ArtifactFormat.ADAPTER), CUDA, {"tensor_parallel_degree": 2}),
    ],
)
def test_what_suits_a_model(artifacts, target, options):
    assert problems(artifacts, target, **options) == []


@pytest.mark.parametrize(
    ("artifacts", "target", "options", "code", "said"),
    [
        (model(), CPU, {"tensor_parallel_degree": 3}, "config.tensor-parallel", "8 attention heads and 4 key-value"),
        (model(), CPU, {"tensor_parallel_degree": 8}, "config.tensor-parallel", "one of 1, 2, 4"),
        (
            model(vocab_size=257),
            CUDA,
            {"tensor_parallel_degree": 2},
            "config.tensor-parallel",
            "257 tokens of the vocabulary",
        ),
        (
            model(intermediate_size=63),
            CUDA,
            {"tensor_parallel_degree": 2},
            "config.tensor-parallel",
            "63 feed-forward numbers",
        ),
        (model(), CUDA, {"max_model_len": 513}, "config.max-model-len", "513 tokens, the model takes 512"),
        (model(), CUDA, {"quantize": "awq"}, "model.not-quantized", "no quantization_config"),
        (compressed("gptq"), CUDA, {"quantize": "awq"}, "config.quantize", "compressed with gptq"),
        (
            model(model_type="acme", auto_map={"AutoModel": "own.M"}),
            CUDA,
            {},
            "model.remote-code",
            "that come with the",
        ),
        (model(architectures=["BertModel"]), CUDA, {}, "model.task-not-served", "BertModel does not continue a text"),
        (
            model(architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True),
            CUDA,
            {},
            "model.task-not-served",
            "T5ForConditionalGeneration has an encoder and a decoder; lmi-dist serves decoder-only models",
        ),
        (compressed("squeezellm"), CUDA, {}, "model.quantization-not-served", "no maintained library"),
        (
            compressed("awq"),
            CUDA,
            {"tensor_parallel_degree": 2},
            "config.tensor-parallel",
            "compressed with awq: transformers splits whole weights only",
        ),
        (
            compressed("awq"),
            CUDA,
            {"tensor_parallel_degree": 2, "quantize": "awq"},
            "config.tensor-parallel",
            "or use option.rolling_batch=vllm, which splits compressed weights",
        ),
        (compressed("gptq"), CPU, {"load_format": "dummy"}, "config.not-supported", "dummy, which makes whole weights"),
    ],
)
def test_what_stops_a_model(artifacts, target, options, code, said):
    found = problems(artifacts, target, **options)
    assert any(each.code == code and said in str(each) and each.hint for each in found), found
    assert all(each.severity is Severity.ERROR for each in found)


def test_adapters_beside_a_model_are_left_alone_with_a_warning():
    files = {"adapters/fr/adapter_config.json": 600, "adapters/fr/adapter_model.safetensors": 4000}
    documents = {"adapters/fr/adapter_config.json": {"r": 32, "target_modules": ["q_proj"]}}
    [warning] = problems(msgspec.structs.replace(model(), files=files, documents=documents))
    assert (warning.code, warning.severity) == ("adapter.not-served", Severity.WARNING)
    assert "option.rolling_batch=vllm" in warning.hint


def test_an_adapter_that_is_the_model_is_merged_into_its_base():
    documents = {"adapter_config.json": {"r": 0, "base_model_name_or_path": "org/base"}}
    adapter = ModelArtifacts(folder="s3://m", format=ArtifactFormat.ADAPTER, documents=documents)
    assert [each.code for each in problems(adapter)] == ["adapter.rank", "adapter.base-not-checked"]


@pytest.mark.parametrize("options", [{}, {"quantize": "gptq"}])
def test_a_compressed_checkpoint_needs_the_packages_that_read_it(options, monkeypatch):
    monkeypatch.setattr(library, "is_installed", lambda module: module in ("torch", "transformers", "optimum"))
    [problem] = problems(compressed("gptq"), **options)
    assert (problem.code, problem.hint) == ("engine.library-missing", "pip install 'lmi-hf[gptq]'")
    assert problem.fields == tuple(options)


def test_an_adapter_needs_the_package_that_merges_it(monkeypatch):
    monkeypatch.setattr(library, "is_installed", lambda module: module != "peft")
    [problem] = problems(ModelArtifacts(format=ArtifactFormat.ADAPTER))
    assert (problem.code, problem.hint) == ("engine.library-missing", "pip install 'lmi-hf[peft]'")


def with_weights(*names: str, folder: str = "/m") -> ModelArtifacts:
    loaded = tuple(name for name in names if name.endswith(".safetensors")) or names
    return msgspec.structs.replace(model(), folder=folder, files=dict.fromkeys(names, 9), weight_files=loaded)


BOTH = ("model.safetensors", "pytorch_model.bin")


@pytest.mark.parametrize(
    ("artifacts", "load_format", "said"),
    [
        (with_weights(*BOTH), "pt", None),
        (with_weights(*BOTH), "safetensors", None),
        (with_weights(BOTH[0]), "auto", None),
        (with_weights(BOTH[0]), "dummy", None),
        (with_weights(BOTH[0]), "pt", "load_format is pt, and no file that ends in .bin is there; model.safetensors"),
        (with_weights(BOTH[1]), "safetensors", "no file that ends in .safetensors is there; pytorch_model.bin is one"),
        (with_weights(*BOTH, folder="s3://b/m"), "pt", "no file that ends in .bin would be fetched of it"),
        (model(), "pt", None),
    ],
)
def test_weights_are_there_in_the_form_that_is_asked_for(artifacts, load_format, said):
    found = problems(artifacts, load_format=load_format)
    assert [each.code for each in found] == (["weights.missing"] if said else [])
    assert all(said in each.message and each.hint == "Set option.load_format=auto" for each in found)


@pytest.mark.parametrize(
    ("target", "share", "n_warnings"), [(CPU, 0.5, 1), (CPU, 0.9, 0), (CUDA, 0.5, 0), (CUDA, 0.9, 0)]
)
def test_a_share_of_device_memory_does_nothing_on_a_cpu_which_is_said(target, share, n_warnings):
    found = problems(model(), target, gpu_memory_utilization=share)
    assert [each.code for each in found] == ["config.no-effect"] * n_warnings
    assert all(
        f"gpu_memory_utilization={share:g} does nothing: the model runs on CPU" in each.message for each in found
    )


@pytest.mark.parametrize(("n_draft", "codes"), [(256, []), (300, ["engine.draft-misfit"]), (None, [])])
def test_a_draft_model_has_the_token_ids_of_the_model(n_draft, codes):
    draft = msgspec.structs.replace(model(vocab_size=n_draft), folder="s3://b/draft")
    artifacts = msgspec.structs.replace(model(), further={"speculative_draft_model": draft})
    found = problems(artifacts, speculative_draft_model="s3://b/draft")
    assert [each.code for each in found] == codes
    assert all("the draft model has 300 token ids, the model 256" in each.message for each in found)
    assert problems(artifacts, speculative_draft_model="s3://b/draft", speculative_length=0) == []
