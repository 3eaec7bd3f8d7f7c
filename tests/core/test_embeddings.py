# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels, in parts: what a model is for, which backend does it, how inputs are cut and tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmi.api import (
    TASK_NAMES,
    ArtifactFormat,
    BackendInfo,
    EngineDeadError,
    LmiError,
    ModelArtifacts,
    RequestError,
    Resume,
    Target,
    Task,
    task_named,
    task_of,
    task_of_model,
)
from lmi.cli.check import check
from lmi.cli.plan import plan
from lmi.config import Settings
from lmi.config.settings import Setting
from lmi.plugins.fit import misfits
from lmi.plugins.tasks import task_problems
from lmi.serving.embeddings import label_names
from lmi.serving.vector_bodies import EmbeddingBody, LabelInvocation, VectorInvocation, read_body
from lmi.testing import write_tiny
from lmi.workers.flight import VectorsFlight
from lmi.workers.suspects import Suspects

GENERATES = BackendInfo(name="writer", summary="", artifact_formats=("pretrained",))
EMBEDS = BackendInfo(name="pooler", summary="", artifact_formats=("pretrained",), tasks=(Task.EMBED, Task.CLASSIFY))
DECODES = BackendInfo(
    name="decoder", summary="", artifact_formats=("pretrained",), tasks=(Task.GENERATE, Task.CLASSIFY),
    takes_encoders=False,
)  # fmt: skip
NARROW = BackendInfo(
    name="narrow", summary="", artifact_formats=("pretrained",), tasks=(Task.EMBED,), architectures=("BertModel",)
)


def model(*architectures: str, files: tuple[str, ...] = (), **config: Any) -> ModelArtifacts:
    return ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, architectures=architectures, config=config,
        files=dict.fromkeys(files, 1),
    )  # fmt: skip


def settings(task: str | None) -> Settings:
    return Settings([] if task is None else [Setting("option.task", task, "serving.properties:3")])


# ------------------------------------------------------------------------------------------------ which task


@pytest.mark.parametrize(
    ("artifacts", "task"),
    [
        (model("LlamaForCausalLM"), Task.GENERATE),
        (model("GPT2LMHeadModel"), Task.GENERATE),
        (model("ChatGLMModel"), Task.GENERATE),
        (model("LlavaForConditionalGeneration"), Task.GENERATE),
        (model("BertModel"), Task.EMBED),
        (model("Qwen3ForCausalLM", files=("modules.json",)), Task.EMBED),
        (model("BertForMaskedLM", files=("config_sentence_transformers.json",)), Task.EMBED),
        (model("BertForSequenceClassification"), Task.CLASSIFY),
        (model("OwnModel", auto_map={"AutoModelForCausalLM": "m.Own"}), Task.GENERATE),
        (model("OwnModel", auto_map={"AutoModel": "m.Own"}), Task.EMBED),
        (model("BertForMaskedLM"), Task.FILL_MASK),
        (model("BertForPreTraining"), Task.FILL_MASK),
        (model("ElectraForPreTraining"), None),
        (model("BertForTokenClassification"), Task.TOKEN_CLASSIFICATION),
        (model("BertForQuestionAnswering"), Task.QUESTION_ANSWERING),
        (model("OwnModel", auto_map={"AutoModelForMaskedLM": "m.Own", "AutoModel": "m.Own"}), Task.EMBED),
        (model("InternLM2ForRewardModel"), None),
        (model(), None),
        (ModelArtifacts(), None),
    ],
)
def test_a_models_files_say_what_it_was_made_for(artifacts: ModelArtifacts, task: Task | None) -> None:
    assert task_of_model(artifacts) is task
    assert task_of(artifacts) is (task or Task.GENERATE)
    assert task_of(artifacts, "auto") is (task or Task.GENERATE)


@pytest.mark.parametrize(("name", "task"), sorted(TASK_NAMES.items()))
def test_what_is_asked_counts_in_every_spelling(name: str, task: Task) -> None:
    assert task_of(model("LlamaForCausalLM"), name.title()) is task


def test_a_name_that_is_no_task_stands_for_none() -> None:
    assert [task_named(name) for name in (None, "", "auto", "reranking")] == [None] * 4


# ------------------------------------------------------------------------------------------- which backend does it


@pytest.mark.parametrize(
    ("info", "artifacts", "asked", "reasons"),
    [
        (GENERATES, model("BertModel"), None, ["serves causal language models, not BertModel"]),
        (EMBEDS, model("BertModel"), None, []),
        (EMBEDS, model("BertForSequenceClassification"), None, []),
        (EMBEDS, model("LlamaForCausalLM"), None, ["serves embedding models, not LlamaForCausalLM"]),
        (EMBEDS, model("LlamaForCausalLM"), "text-embedding", []),
        (GENERATES, model("XForCausalLM"), "embed", ["serves causal language models, not XForCausalLM for embed"]),
        (NARROW, model("BertModel"), None, []),
        (GENERATES, model("T5ForConditionalGeneration", is_encoder_decoder=True), None, []),
        (
            DECODES, model("T5ForConditionalGeneration", is_encoder_decoder=True), "text2text-generation",
            ["generates with decoders alone, and T5ForConditionalGeneration has an encoder as well"],
        ),
        (DECODES, model("BartForSequenceClassification", is_encoder_decoder=True), None, []),
        (NARROW, model("RobertaModel"), None, ["serves BertModel, not RobertaModel"]),
        (NARROW, model("BertForSequenceClassification"), None, ["serves BertModel, not BertForSequenceClassification"]),
    ],
)  # fmt: skip
def test_a_backend_fits_a_model_whose_task_it_does(
    info: BackendInfo, artifacts: ModelArtifacts, asked: str | None, reasons: list[str]
) -> None:
    assert misfits(info, artifacts, Target(), task=asked) == reasons


def test_a_model_made_for_something_else_is_told_with_the_backends_that_do_it() -> None:
    (problem,) = task_problems(model("BertModel"), settings(None), GENERATES, [GENERATES, EMBEDS, NARROW])
    assert problem.code == "model.task-not-served"
    assert problem.message == "BertModel does not continue a text, it makes vectors; writer generates text"
    assert problem.hint == "Serve it with a backend that makes vectors (option.rolling_batch): narrow, pooler"
    (alone,) = task_problems(model("BertModel"), settings(None), GENERATES, [GENERATES])
    assert alone.hint.startswith("No installed backend makes vectors")


def test_generation_asked_of_a_model_without_a_head_for_it_is_told_with_its_line() -> None:
    (problem,) = task_problems(model("BertModel"), settings("text-generation"), EMBEDS, [EMBEDS])
    assert "option.task is text-generation, and BertModel does not continue a text" in problem.message
    assert problem.source == "serving.properties:3"


def test_commands_take_the_task_from_the_settings(tmp_path: Path) -> None:
    asked = [str(write_tiny("llama-wide", tmp_path / "llama")), "-o", "task=text-embedding", "--devices", "cuda:1"]
    refused = CliRunner().invoke(check, [*asked, "-o", "rolling_batch=hf"])
    assert refused.exit_code == 1
    assert "'option.task' is 'text-embedding'; hf generates text, gives labels," in refused.output
    assert "a backend that makes vectors (option.rolling_batch): vllm" in refused.output
    assert "served by vllm" in CliRunner().invoke(check, asked).output
    ranked = CliRunner().invoke(plan, asked).output
    assert "serves causal language models, not LlamaForCausalLM for text-embedding" in ranked


@pytest.mark.parametrize(
    ("artifacts", "asked", "info"),
    [
        (model("LlamaForCausalLM"), None, GENERATES),
        (model("LlamaForCausalLM"), "embed", EMBEDS),
        (model("Qwen3ForCausalLM", files=("modules.json",)), "generate", GENERATES),
        (model("BertModel"), "auto", EMBEDS),
        (model("WhoKnows"), None, GENERATES),
    ],
)
def test_nothing_speaks_against_a_task_that_model_and_backend_have(
    artifacts: ModelArtifacts, asked: str | None, info: BackendInfo
) -> None:
    assert task_problems(artifacts, settings(asked), info, [info]) == []


# ---------------------------------------------------------------------------------------------------------- bodies


def read(kind: Any, body: Any) -> Any:
    return read_body(kind, body, model="m", task=Task.EMBED)


def test_one_text_is_a_list_of_one_and_known_to_be_single() -> None:
    body = read(VectorInvocation, {"inputs": "a", "truncate": True, "parameters": {"normalize": False}})
    assert (body.inputs, body.is_single) == (["a"], True)
    assert (body.parameters.truncate, body.parameters.normalize) == (True, False)
    assert not read(LabelInvocation, {"inputs": ["a"], "top_k": 2}).is_single


@pytest.mark.parametrize("kind", [VectorInvocation, LabelInvocation, EmbeddingBody])
@pytest.mark.parametrize("body", [None, 1, "a", [], {}, {"is_single": True}, {"inputs": None}, {"input": None}])
def test_a_body_that_is_none_is_refused_as_the_callers_fault(kind: Any, body: Any) -> None:
    with pytest.raises(RequestError) as caught:
        read(kind, body)
    assert caught.value.code == "request.invalid"


@pytest.mark.parametrize(
    ("kind", "body", "hint"),
    [
        (LabelInvocation, {"inputs": "a", "parameters": {"zzz": 1}}, "Known: truncate, truncation_direction, top_k."),
        (
            LabelInvocation,
            {"inputs": "a", "zzz": 1},
            "Known: inputs, parameters, truncate, truncation_direction, top_k.",
        ),
        (VectorInvocation, {"inputs": "a", "parameters": {"input": 1}}, "Known: truncate, truncation_direction, "),
        (VectorInvocation, {"input": "a"}, "Did you mean 'inputs'?"),
        (EmbeddingBody, {"inputs": "a"}, "Did you mean 'input'?"),
        (EmbeddingBody, {"input": "a", "encoding-format": "float"}, "Did you mean 'encoding_format'?"),
    ],
)
def test_a_name_that_is_none_is_told_those_that_may_stand_there(kind: Any, body: Any, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(kind, body)
    assert caught.value.hint.startswith(hint)
    assert "is_single" not in caught.value.hint


def test_labels_have_their_names_from_the_models_configuration() -> None:
    assert label_names({"id2label": {"0": "sad", "1": "glad"}}, 3) == ["sad", "glad", "LABEL_2"]
    assert label_names({}, 1) == ["LABEL_0"]


# ------------------------------------------------------------------------------------------------ tried again


def flight(errors: list[LmiError]) -> VectorsFlight:
    return VectorsFlight("r", "embedding", "embed", [[1, 2], [3]], (True, None), lambda result: None, errors.append)


@pytest.mark.parametrize("resume", Resume)
def test_prompts_whose_worker_died_are_tried_again_whatever_the_backend_can_resume(resume: Resume) -> None:
    errors: list[LmiError] = []
    suspects, one = Suspects(BackendInfo(name="acme", summary="", resume=resume)), flight(errors)
    suspects.add([one, flight(errors)], EngineDeadError("engine.died", "the cable was pulled"))
    assert suspects.to_try[0] is one
    assert errors == []


def test_prompts_that_were_alone_at_a_second_death_are_not_tried_again() -> None:
    errors: list[LmiError] = []
    suspects, one = Suspects(BackendInfo(name="acme", summary="")), flight(errors)
    for _ in range(2):
        suspects.add([one], EngineDeadError("engine.died", "again"))
        if suspects:
            suspects.start_trial(one)
    assert [error.code for error in errors] == ["engine.killed-by-request"]


def test_prompts_weigh_as_many_tokens_as_they_have() -> None:
    assert flight([]).n_reserved_tokens == 3
