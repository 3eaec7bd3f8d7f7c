# SPDX-License-Identifier: Apache-2.0
"""`lmi check`: would this start, and if not, why."""

import json

import pytest
from click.testing import CliRunner

from lmi.cli.check import check
from lmi.plugins import discovery
from tests.core.distributions import Distributions
from tests.core.model_folders import write_model


@pytest.fixture
def run(monkeypatch):
    for name in ("SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(check, [*arguments], catch_exceptions=False)


def test_a_model_that_would_start_says_with_what(run, tmp_path):
    found = run(str(write_model(tmp_path / "llama")), "-o", "rolling_batch=hf")
    assert (found.exit_code, found.stdout.splitlines()[-1]) == (
        0,
        "model: would be served by hf: option.rolling_batch=hf (command line -o rolling_batch)",
    )


def test_mistakes_in_the_configuration_and_in_the_files_come_together(run, tmp_path):
    folder = write_model(tmp_path / "llama")
    (folder / "tokenizer_config.json").unlink()
    (folder / "serving.properties").write_text("option.rolling_batch=hf\noption.dtpye=bf16\n")
    found = run(str(folder), "--json")
    content = json.loads(found.stdout)
    assert (found.exit_code, content["is_valid"]) == (1, False)
    assert [problem["code"] for problem in content["problems"]] == ["config.unknown-key", "tokenizer.missing"]
    assert set(content["problems"][0]) == {"code", "severity", "message", "hint", "path", "source"}
    assert set(content) == {
        "schema", "model", "backend", "reason", "format", "place", "machine", "memory", "is_valid", "problems",
    }  # fmt: skip
    assert content["schema"] == "lmi.check/1"
    assert content["problems"][0]["source"] == "serving.properties:2"


def test_warnings_stop_nothing_and_are_counted(run, tmp_path):
    folder = write_model(tmp_path / "llama")
    found = run(str(folder), "-o", "rolling_batch=hf", "-o", "max_batch_delay=7", "-o", "gpu_memory_utilization=0.5")
    assert found.exit_code == 0
    assert "warning: [config.of-no-use] 'max_batch_delay=7' does nothing" in found.stdout
    assert found.stdout.splitlines()[-1].endswith("(2 warnings)")


def test_another_machine_may_be_asked_about(run, tmp_path):
    folder = write_model(tmp_path / "llama")
    flags = (str(folder), "-o", "rolling_batch=hf", "-o", "tensor_parallel_degree=8", "--devices")
    assert (
        "[device.too-few] tensor_parallel_degree=8, and this machine has 4 cuda devices" in run(*flags, "cuda:4").stdout
    )
    assert run(*flags, "cuda:8").exit_code == 0


def test_each_of_several_models_is_checked(run, tmp_path):
    one = write_model(tmp_path / "one")
    found = run("-m", f"a={one},b={tmp_path / 'none'}", "-o", "rolling_batch=hf", "--json")
    assert found.exit_code == 1
    assert [(each["model"], each["is_valid"]) for each in json.loads(found.stdout)] == [("a", True), ("b", False)]


@pytest.mark.parametrize("url", ["{}/none", "file://{}/none", "./none", "~/none"])
def test_a_folder_that_is_not_there_is_missed_for_a_backend_that_reads_no_files_too(run, tmp_path, monkeypatch, url):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = run(url.format(tmp_path), "-o", "rolling_batch=echo", "-o", "step_delay_ms=never", "--json")
    problems = json.loads(found.stdout)["problems"]
    assert [each["code"] for each in problems] == ["config.invalid-value", "model.not-found"]


@pytest.mark.parametrize("url", [(), ("org/name",), ("{}",)])
def test_a_backend_that_reads_no_files_needs_no_model(run, tmp_path, url):
    assert run(*(each.format(tmp_path) for each in url), "-o", "rolling_batch=echo").exit_code == 0


def test_warnings_are_told_beside_errors(run, tmp_path):
    folder = write_model(tmp_path / "llama")
    found = run(str(folder), "-o", "rolling_batch=hf", "-o", "waiting_steps=7", "-o", "dtype=fp17", "--json")
    severities = {problem["code"]: problem["severity"] for problem in json.loads(found.stdout)["problems"]}
    assert severities == {"config.of-no-use": "warning", "config.invalid-value": "error"}


def test_a_backend_that_cannot_load_yet_would_not_start(run, tmp_path, monkeypatch):
    installed = Distributions(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", installed.entry_points)
    installed.backend("early", extra="is_loadable=False")
    found = run(str(write_model(tmp_path / "llama")), "-o", "rolling_batch=early")
    assert (found.exit_code, found.stdout.count("engine.not-implemented")) == (1, 1)
    installed.forget()


def test_memory_that_is_not_there_is_told_for_this_machine_alone(run, tmp_path):
    flags = (str(write_model(tmp_path / "llama")), "-o", "rolling_batch=hf", "-o", "required_memory_mb=99999999")
    assert "memory.too-little" in run(*flags).stdout
    assert run(*flags, "--devices", "cpu").exit_code == 0


def test_what_is_doubtful_about_the_server_is_told_too(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVING_NUMBER_OF_NETTY_THREADS", "4")
    found = run(str(write_model(tmp_path / "llama")), "-o", "rolling_batch=hf", "--json")
    assert [problem["code"] for problem in json.loads(found.stdout)["problems"]] == ["config.of-no-use"]


def test_no_model_is_said(run):
    assert run("-m", "NONE").stdout == "no model: load_models says so\n"


def test_models_that_would_share_devices_are_told(run, tmp_path):
    models = f"a={write_model(tmp_path / 'one')},b={write_model(tmp_path / 'two')}"
    found = run("-m", models, "-o", "rolling_batch=hf", "--devices", "cuda:2", "--json")
    told = {each["model"]: [problem["code"] for problem in each["problems"]] for each in json.loads(found.stdout)}
    assert (told["a"], told["b"]) == ([], ["device.shared"])
