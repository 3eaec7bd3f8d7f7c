# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters beside a model, judged by their small files: one row a rule."""

from typing import Any

import pytest

from lmi.api import (
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Severity,
    adapter_problems,
    adapters_of,
    unserved_adapters,
)

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}


def model(adapters: dict[str, Any], folder: str = "/models/tiny", **changes: Any) -> ModelArtifacts:
    """A model with adapters: name -> adapter_config.json."""
    documents = {f"adapters/{name}/adapter_config.json": config for name, config in adapters.items()}
    weights = [f"adapters/{name}/adapter_model.safetensors" for name in adapters]
    files = dict.fromkeys(["config.json", "model.safetensors", *documents, *weights], 100)
    fields = {"folder": folder, "format": ArtifactFormat.PRETRAINED, "model_type": "llama"}
    return ModelArtifacts(**{**fields, "files": files, "documents": documents, **changes})


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def test_adapters_are_the_folders_in_adapters_by_name():
    found = adapters_of(model({"fr": PLAIN, "de": {**PLAIN, "r": 16}}))
    assert [(each.name, each.folder, each.rank) for each in found] == [
        ("de", "adapters/de/", 16),
        ("fr", "adapters/fr/", 8),
    ]
    assert found[0].weight_files == ("adapters/de/adapter_model.safetensors",)
    assert (found[0].method, found[0].target_modules) == ("LORA", ("q_proj", "v_proj"))


def test_a_folder_that_is_an_adapter_is_the_only_one_and_has_no_name():
    own = ModelArtifacts(format=ArtifactFormat.ADAPTER, documents={"adapter_config.json": PLAIN})
    assert [(each.name, each.folder, each.rank) for each in adapters_of(own)] == [("", "", 8)]


def test_files_that_lie_in_adapters_itself_are_no_adapters():
    assert adapters_of(ModelArtifacts(files={"adapters/notes.txt": 5})) == []


def test_the_rank_is_the_largest_of_all_matrices():
    (adapter,) = adapters_of(model({"fr": {**PLAIN, "rank_pattern": {"q_proj": 32, "v_proj": 4}}}))
    assert adapter.rank == 32


def test_good_adapters_have_no_problems():
    assert adapter_problems(model({"fr": PLAIN, "de": PLAIN}), max_rank=8) == []


@pytest.mark.parametrize(
    ("config", "max_rank", "ranks", "code", "said"),
    [
        pytest.param({"r": 64}, 16, (8, 16, 32, 64), "adapter.rank", "max_lora_rank=64", id="a rank that is known"),
        pytest.param({"r": 40}, 16, (8, 16, 32, 64), "adapter.rank", "max_lora_rank=64", id="the next rank there is"),
        pytest.param({"r": 99}, 16, (8, 16, 32, 64), "adapter.rank", "At most 64", id="more than any rank"),
        pytest.param({"r": 99}, 16, (), "adapter.rank", "max_lora_rank=99", id="any rank may be set"),
        pytest.param({"rank_pattern": {"k_proj": 24}}, 16, (), "adapter.rank", "has rank 24", id="of one matrix"),
        pytest.param({"r": "8"}, 16, (), "adapter.rank", "has the rank 8", id="a text"),
        pytest.param({"r": None}, 0, (), "adapter.rank", "has the rank None", id="none"),
        pytest.param({"r": -1}, 0, (), "adapter.rank", "has the rank -1", id="negative"),
        pytest.param({"target_modules": ["query_key_value"]}, 0, (), "adapter.unknown-modules", "they have q_proj",
                     id="matrices of another family"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_served_says_why(config, max_rank, ranks, code, said):
    problem = only(adapter_problems(model({"fr": {**PLAIN, **config}}), max_rank=max_rank, ranks=ranks))
    assert (problem.code, problem.severity, said in str(problem)) == (code, Severity.ERROR, True), problem
    assert problem.message.startswith("adapter 'fr' ")
    assert problem.path == "/models/tiny/adapters/fr/adapter_config.json"
    assert problem.hint


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        ({"target_modules": "all-linear"}, "llama"),
        ({"target_modules": ["model.layers.0.self_attn.q_proj", "lm_head", "embed_tokens"]}, "llama"),
        ({"target_modules": ["c_attn"]}, "gpt2"),
        ({"target_modules": ["query_key_value", "dense_h_to_4h"]}, "falcon"),
        ({"target_modules": ["anything"]}, "a-family-nobody-knows"),
        ({"target_modules": [1, None]}, "llama"),
        ({"peft_type": "IA3", "r": None}, "llama"),
    ],
)
def test_what_may_be_right_is_no_problem(config, model_type):
    assert adapter_problems(model({"fr": {**PLAIN, **config}}, model_type=model_type)) == []


def test_one_strange_matrix_among_others_is_a_warning():
    problem = only(adapter_problems(model({"fr": {**PLAIN, "target_modules": ["q_proj", "c_attn"]}})))
    assert (problem.code, problem.severity) == ("adapter.unknown-modules", Severity.WARNING)
    assert "changes c_attn, which llama models do not have" in problem.message


@pytest.mark.parametrize(
    ("lost", "said"),
    [("adapter_config.json", "has no adapter_config.json"), ("adapter_model.safetensors", "has no weights, neither")],
)
def test_a_file_that_an_adapter_lacks_is_named(lost, said):
    whole = model({"fr": PLAIN})
    files = {name: size for name, size in whole.files.items() if name != f"adapters/fr/{lost}"}
    documents = {name: content for name, content in whole.documents.items() if name in files}
    problem = only(adapter_problems(model({}, files=files, documents=documents)))
    assert (problem.code, said in problem.message) == ("adapter.incomplete", True), problem


@pytest.mark.parametrize("content", [None, [], "text", 5])
def test_a_configuration_that_is_no_object_cannot_be_read(content):
    problem = only(adapter_problems(model({"fr": content})))
    assert (problem.code, "cannot be read" in problem.message) == ("adapter.incomplete", True)


@pytest.mark.parametrize("name", ["..", ".", "a\\b", "a\0b"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    problem = only(adapter_problems(model({name: PLAIN})))
    assert problem.code == "artifacts.unsafe-name"


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"config": {"_name_or_path": "meta-llama/Llama-3-8B"}}, False),
        ({"config": {"_name_or_path": "mirror/LLAMA-3-8b"}}, False),
        ({"config": {"_name_or_path": "mistralai/Mistral-7B"}}, True),
        ({"config": {"_name_or_path": "/opt/ml/model"}}, False),
        ({"folder": "/cache/hub/models--mistralai--Mistral-7B/snapshots/1a2b"}, True),
        ({"folder": "/cache/hub/models--meta-llama--Llama-3-8B/snapshots/1a2b"}, False),
        ({"folder": "https://huggingface.co/mistralai/Mistral-7B/resolve/main"}, True),
        ({"folder": "s3://models/whatever"}, False),
    ],
)
def test_a_base_model_is_compared_by_its_name_where_both_have_one(changes, is_told):
    found = adapter_problems(model({"fr": {**PLAIN, "base_model_name_or_path": "meta-llama/Llama-3-8B"}}, **changes))
    assert [(each.code, each.severity) for each in found] == [("adapter.other-base", Severity.WARNING)] * is_told


def test_a_base_that_is_a_folder_is_not_compared():
    named = {"config": {"_name_or_path": "org/model"}}
    assert adapter_problems(model({"fr": {**PLAIN, "base_model_name_or_path": "/data/base"}}, **named)) == []


def test_all_problems_of_all_adapters_are_told_at_once():
    found = adapter_problems(model({"a": {**PLAIN, "r": 64}, "b": {**PLAIN, "r": 0}}), max_rank=16)
    assert [(each.code, each.message[:11]) for each in found] == [
        ("adapter.rank", "adapter 'a'"),
        ("adapter.rank", "adapter 'b'"),
    ]


def test_adapters_that_nobody_can_ask_for_are_a_warning_with_their_names():
    problem = only(unserved_adapters(model({"b": PLAIN, "a": PLAIN}), "the switch is off", "Turn it on", "enable_lora"))
    assert (problem.code, problem.severity, problem.fields) == (
        "adapter.not-served", Severity.WARNING, ("enable_lora",),
    )  # fmt: skip
    assert problem.message == "2 adapters in adapters/ (a, b) cannot be asked for: the switch is off"
    assert unserved_adapters(model({}), "the switch is off", "Turn it on") == []
