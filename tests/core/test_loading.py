# SPDX-License-Identifier: Apache-2.0
"""The spine: from a folder and a few settings to a plan, and from the plan to an engine."""

import asyncio

import pytest

from lmi.api import (
    Accelerator,
    ArtifactError,
    ArtifactFormat,
    ConfigError,
    Engine,
    EngineLoadError,
    ModelArtifacts,
    NotReadyError,
    OutOfMemoryError,
    PluginError,
)
from lmi.config.model_entries import ModelEntry
from lmi.loading import load_engine, plan
from lmi.plugins import Plugins, discovery
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.core.distributions import Distributions
from tests.core.model_folders import write_model


@pytest.fixture
def installed(tmp_path, monkeypatch):
    path = tmp_path / "site"
    path.mkdir()
    distributions = Distributions(path)
    monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(discovery, "entry_points", distributions.entry_points)
    yield distributions
    distributions.forget()


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "llama")


@pytest.fixture
def make_plan(installed, tmp_path):
    def _plan(model=None, environ=(), default_folder=None, **flags):
        return plan(
            ModelEntry(url=str(model) if model is not None else None),
            flags=flags,
            environ=dict(environ),
            plugins=Plugins.discover(dict(environ)),
            default_folder=default_folder or tmp_path / "nothing",
        )

    return _plan


PLAYBACK = 'needs_model=False, resume=Resume.EXACT'  # fmt: skip


def test_a_folder_alone_is_enough(installed, folder, make_plan):
    installed.backend("acme")
    made = make_plan(folder)
    assert (made.name, made.info.name, made.reason) == ("model", "acme", "fits LlamaForCausalLM on cpu")
    assert made.artifacts.path == folder
    assert made.target.accelerator is Accelerator.CPU
    assert made.warnings == ()


def test_the_folders_properties_are_read_and_flags_beat_them(installed, folder, make_plan):
    installed.backend("acme")
    (folder / "serving.properties").write_text("option.dtype=fp16\noption.max_model_len=64\njob_queue_size=5\n")
    made = make_plan(folder, dtype="bf16")
    assert (made.config.dtype, made.config.max_model_len, made.options.job_queue_size) == ("bf16", 64, 5)
    assert made.settings["dtype"].overrode[0].source == "serving.properties:1"


def test_properties_alone_may_point_to_weights_elsewhere(installed, folder, tmp_path, make_plan):
    installed.backend("acme")
    served = tmp_path / "served"
    served.mkdir()
    (served / "serving.properties").write_text(f"option.model_id={folder}\n")
    assert make_plan(served).artifacts.path == folder


def test_properties_beside_weights_reached_through_model_id_are_not_read(installed, folder, make_plan):
    installed.backend("acme")
    (folder / "serving.properties").write_text("option.max_model_len=64\n")
    assert make_plan(environ={"HF_MODEL_ID": str(folder)}).config.max_model_len is None


def test_the_containers_folder_is_served_when_nothing_is_named(installed, folder, make_plan):
    installed.backend("acme")
    (folder / "serving.properties").write_text("option.max_model_len=64\n")
    made = make_plan(default_folder=folder, environ={"HF_MODEL_ID": str(folder)})
    assert (made.artifacts.path, made.config.max_model_len) == (folder, 64)


def test_an_empty_container_folder_is_no_model(installed, tmp_path, make_plan):
    installed.backend("acme")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config.no-model: no model was given"):
        make_plan(default_folder=tmp_path / "empty")


def test_properties_alone_are_no_model(installed, tmp_path, make_plan):
    installed.backend("acme")
    (tmp_path / "served").mkdir()
    (tmp_path / "served/serving.properties").write_text("option.dtype=bf16\n")
    with pytest.raises(ConfigError, match=r"config.no-model: no model was given"):
        make_plan(tmp_path / "served")


def test_an_empty_folder_is_called_empty(installed, tmp_path, make_plan):
    installed.backend("acme")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        make_plan(tmp_path / "empty")
    assert [problem.message for problem in caught.value.problems] == [f"{tmp_path / 'empty'} is empty"]


def test_a_backend_that_needs_no_model_is_planned_without_one(installed, make_plan):
    installed.backend("playback", extra=PLAYBACK)
    made = make_plan(rolling_batch="playback")
    assert made.artifacts == ModelArtifacts()
    assert made.reason == "option.rolling_batch=playback (command line -o rolling_batch)"


def test_a_backend_that_takes_no_files_ignores_the_model_that_is_there(installed, make_plan):
    installed.backend(
        "playback",
        extra=PLAYBACK,
        more='import dataclasses\nINFO = dataclasses.replace(INFO, artifact_formats=("none",))',
    )
    made = make_plan("org/not-fetched", rolling_batch="playback")
    assert made.artifacts.format is ArtifactFormat.NONE


def test_a_backend_that_needs_a_model_is_not_planned_without_one(installed, make_plan):
    installed.backend("acme")
    with pytest.raises(ConfigError, match="acme needs a model and none was given"):
        make_plan(rolling_batch="acme")


def test_every_problem_of_the_files_is_in_one_message(installed, folder, make_plan):
    installed.backend(
        "acme",
        more="""
        @hookimpl
        def lmi_validate_artifacts(artifacts, config):
            return [Problem(code="engine.wrong-tp", message=f"built for 4, config says {config.tensor_parallel_degree}",
                            source="serving.properties:7")]
        """,
    )
    (folder / "tokenizer_config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError) as caught:
        make_plan(folder)
    assert str(caught.value).splitlines() == [
        f"artifacts.invalid: 3 problems in {folder}; nothing was loaded.",
        "  [weights.truncated] model.safetensors is empty. Copy it again.",
        "  [tokenizer.missing] no tokenizer_config.json. Copy it from where the model came from.",
        "  [engine.wrong-tp] built for 4, config says 1 (serving.properties:7).",
    ]


def test_problems_of_configuration_and_files_come_together(installed, folder, make_plan):
    installed.backend("acme")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError) as caught:
        make_plan(folder, dtpye="fp16")
    first, second, third = str(caught.value).splitlines()
    assert first == f"config.invalid: 1 problem in the configuration and 1 in {folder}; nothing was loaded."
    assert "Did you mean 'option.dtype'?" in second
    assert "[tokenizer.missing]" in third


def test_a_wrong_option_is_told_although_the_place_of_the_model_cannot_be_reached(installed, make_plan, monkeypatch):
    def unreachable(*_):
        raise ArtifactError("model.unreachable", "'org/model' could not be reached", [], "Check the network")

    monkeypatch.setattr("lmi.artifacts.places.hub.hub_files", unreachable)
    installed.backend("acme")
    with pytest.raises(ConfigError) as caught:
        make_plan("org/model", rolling_batch="acme", dtpye="fp16")
    assert [problem.code for problem in caught.value.problems] == ["config.unknown-key", "model.unreachable"]


def test_warnings_stop_nothing_and_are_kept(installed, folder, make_plan):
    warning = 'Problem(code="engine.slow", message="slow", severity=Severity.WARNING)'
    installed.backend("acme", more=f"@hookimpl\ndef lmi_validate_artifacts():\n    return [{warning}]")
    installed.extension("guard", "1 / 0")
    made = make_plan(folder)
    assert [problem.code for problem in made.warnings] == ["plugin.import-failed", "engine.slow"]


def test_an_extension_may_find_problems_too(installed, folder, make_plan):
    installed.backend("acme")
    problem = 'Problem(code="policy.licence", message="no licence")'
    installed.extension("policy", f"@hookimpl\ndef lmi_validate_artifacts():\n    return [{problem}]")
    with pytest.raises(ArtifactError, match=r"\[policy.licence\] no licence"):
        make_plan(folder)


def test_validation_that_raises_is_the_plugins_fault(installed, folder, make_plan):
    installed.backend("acme", more="@hookimpl\ndef lmi_validate_artifacts():\n    raise KeyError('x')")
    with pytest.raises(PluginError, match=r"plugin.hook-failed: lmi_validate_artifacts failed for acme: KeyError: 'x'"):
        make_plan(folder)


def test_a_device_that_the_machine_lacks_is_named_with_its_source(installed, folder, make_plan):
    installed.backend("acme", extra="accelerators=(Accelerator.CUDA, Accelerator.CPU)")
    with pytest.raises(ArtifactError, match=r"\[device.missing\] option.device=cuda.*\(OPTION_DEVICE\)"):
        make_plan(folder, environ={"OPTION_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""})


def test_a_wanted_backend_for_another_device_says_so(installed, folder, make_plan):
    installed.backend("acme", extra="accelerators=(Accelerator.NEURON,)")
    with pytest.raises(ArtifactError, match=r"\[backend.misfit\] acme runs on neuron, not on cpu"):
        make_plan(folder, rolling_batch="acme", device="cpu")


def load(name, artifacts=None, options=None):
    stages = []
    engine = load_engine(
        Plugins.discover({}, only_backend=name), name, artifacts or ModelArtifacts(), options or {},
        lambda stage, fraction=None: stages.append((stage, fraction)),
    )  # fmt: skip
    return engine, stages


def test_a_plan_becomes_an_engine_with_the_same_configuration(installed, folder, make_plan):
    installed.backend("acme")
    made = make_plan(folder, dtype="bf16")
    engine, stages = load("acme", made.artifacts, made.config.model_dump(mode="json"))
    assert isinstance(engine, Engine)
    assert (engine.config, engine.artifacts) == (made.config, made.artifacts)
    assert stages == [("load", 1.0)]


STEPPER = """
class FakeStepper(Stepper):
    limits = StepperLimits(max_slots=2, max_context_tokens=8, kv_capacity_tokens=16, vocab_size=8)
    def step(self, batch): ...
    def truncate(self, slot, n_tokens): ...
    def release(self, slot): ...
    def close(self): ...

@hookimpl
def lmi_load_engine():
    return FakeStepper()
"""


def test_a_stepper_comes_back_as_an_engine(installed):
    installed.backend("acme", more=STEPPER)

    async def life():
        engine, _ = load("acme")
        assert isinstance(engine, Engine)
        assert engine.limits.max_context_tokens == 8
        await engine.close()

    asyncio.run(life())


def test_the_scheduler_gets_the_models_end_ids_the_batch_size_and_the_tokenizer(installed, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        "lmi.scheduling.engine.StepperEngine", lambda *arguments, **more: given.append((arguments, more))
    )
    installed.backend("acme", more=STEPPER)
    folder = str(write_tokenizer(tmp_path))
    artifacts = ModelArtifacts(folder=folder, format=ArtifactFormat.PRETRAINED, eos_token_ids=(2, 7))
    load("acme", artifacts, {"max_rolling_batch_size": 3})
    (((_, eos_token_ids), more),) = given
    assert '"</s>"' in more.pop("read_tokenizer")()
    assert (eos_token_ids, more) == ((2, 7), {"max_batch_size": 3})


def raising(expression):
    return f"@hookimpl\ndef lmi_load_engine():\n    raise {expression}"


def test_a_failed_load_keeps_its_cause(installed):
    installed.backend("acme", more=raising("ValueError('bad rope')"))
    with pytest.raises(EngineLoadError, match="acme could not load its engine: ValueError: bad rope") as caught:
        load("acme")
    assert isinstance(caught.value.__cause__, ValueError)


def test_no_memory_is_told_from_other_failures(installed):
    installed.backend("acme", more=raising("MemoryError()"))
    with pytest.raises(OutOfMemoryError, match=r"engine.out-of-memory"):
        load("acme")


def test_a_backends_own_error_passes_as_it_is(installed):
    installed.backend("acme", more=raising("NotReadyError('engine.busy', 'the device is taken')"))
    with pytest.raises(NotReadyError, match="the device is taken"):
        load("acme")


def test_a_hook_that_returns_no_engine_is_refused(installed):
    installed.backend("acme", more="@hookimpl\ndef lmi_load_engine():\n    return 5")
    with pytest.raises(PluginError, match="gave 5, neither an Engine nor a Stepper"):
        load("acme")


def test_a_worker_without_the_backend_says_which_python_lacks_it(installed):
    with pytest.raises(
        PluginError, match=r"backend 'acme' is not installed. Install it into the environment of .*python"
    ):
        load("acme")
