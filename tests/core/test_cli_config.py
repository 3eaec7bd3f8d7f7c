# SPDX-License-Identifier: Apache-2.0
"""`lmi config`: what holds, where it was set, what it overrode, and everything that is wrong."""

import json

import pytest
from click.testing import CliRunner

from lmi.cli.config import config


@pytest.fixture
def run(monkeypatch, tmp_path):
    for name in ("SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def _run(*arguments, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(config, [*arguments], catch_exceptions=False)

    return _run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "serving.properties").write_text(
        "engine=Python\noption.rolling_batch=echo\noption.max_model_len=100\noption.hf_token=hush\njob_queue_size=7\n"
    )
    return tmp_path


def test_each_value_is_shown_with_its_source_and_what_it_overrode(run, folder):
    found = run(str(folder), "-o", "max_model_len=50", "-o", "hf_token=", OPTION_MAX_MODEL_LEN="25")
    lines = [line.split(maxsplit=3) for line in found.output.splitlines()]
    [row] = [line for line in lines if line[:1] == ["option.max_model_len"]]
    assert row[:2] == ["option.max_model_len", "50"]
    assert row[3] == "line -o max_model_len  100 (serving.properties:3), 25 (OPTION_MAX_MODEL_LEN)"


def test_the_backend_and_why_it_was_chosen_is_said(run, folder):
    found = run(str(folder))
    assert "backend  echo: option.rolling_batch=echo (serving.properties:2)" in found.output


def test_json_has_the_promised_form(run, folder):
    (folder / "serving.properties").write_text("option.rolling_batch=echo\nminWorkers=2\n")
    found = run(str(folder), "--json", "--devices", "cpu", OPTION_DATA="1")
    content = json.loads(found.stdout)
    promised = {"backend", "reason", "mode", "workers", "devices", "options", "warnings", "problems"}
    assert set(content) == promised | {"model", "slices"}
    assert content["options"]["minWorkers"] == {"value": "2", "source": "serving.properties:2", "overrode": []}
    assert content["problems"][0].startswith("[config.unknown-key] 'option.data' is not an option of echo")
    assert found.exit_code == 1


def test_json_of_a_valid_configuration_has_every_option_and_exits_with_0(run):
    found = run("-o", "rolling_batch=echo", "--json")
    content = json.loads(found.stdout)
    assert (found.exit_code, content["backend"], content["workers"]) == (0, "echo", 1)
    assert content["options"]["option.max_model_len"] == {"value": "8192", "source": "default", "overrode": []}
    assert content["options"]["job_queue_size"]["value"] == "1000"


def test_secrets_are_never_shown(run, folder):
    for form in ([], ["--json"], ["--env"], ["--properties"]):
        assert "hush" not in run(str(folder), *form).output


def test_everything_wrong_is_told_at_once_and_the_exit_code_is_1(run):
    found = run("-o", "rolling_batch=echo", "-o", "max_model_len=none at all", "-o", "max_modl_len=3")
    assert found.exit_code == 1
    assert "error: [config.unknown-key] 'max_modl_len' is not an option of echo or of LMI" in found.output
    assert "error: [config.invalid-value] 'option.max_model_len' is 'none at all'" in found.output


def test_another_machine_may_be_asked_about(run):
    content = json.loads(run("-o", "rolling_batch=echo", "--devices", "cuda:4", "--json").stdout)
    assert content["devices"] == "cuda:4"


@pytest.mark.parametrize(("devices", "said"), [("cud:4", "Did you mean 'cuda'?"), ("cuda:x", "Write cuda:4")])
def test_devices_that_are_none_are_refused(run, devices, said):
    with pytest.raises(Exception, match=r"device\.unknown") as caught:
        run("--devices", devices)
    assert said in str(caught.value)


def test_what_is_set_can_be_had_as_variables_and_as_a_file(run, folder):
    (folder / "serving.properties").write_text("option.rolling_batch=echo\nminWorkers=2\n")
    assert run(str(folder), "--env").stdout.splitlines() == ["OPTION_ROLLING_BATCH=echo", "SERVING_MINWORKERS=2"]
    assert run(str(folder), "--properties").stdout.splitlines() == ["minWorkers=2", "option.rolling_batch=echo"]


def test_the_options_of_a_backend_come_as_a_table_and_as_a_schema(run):
    assert "| `option.step_delay_ms` | ms | `0.0` |" in run("--keys", "echo").stdout
    schema = json.loads(run("--schema", "echo").stdout)
    assert schema["properties"]["max_model_len"]["default"] == 8192
    with pytest.raises(Exception, match="Did you mean 'echo'"):
        run("--keys", "ech")


def test_without_a_backend_the_keys_are_those_of_every_model_and_all_backends(run):
    printed = run("--keys").stdout
    assert "# every model" in printed and "| `job_queue_size` |" in printed
    assert "# echo" in printed and "| `option.step_delay_ms` |" in printed
    assert "| `option.cluster_size` | not supported" in printed


def test_a_model_that_is_a_python_file_has_options_of_its_own(run, tmp_path):
    (tmp_path / "model.py").write_text("def handle(inputs):\n    return None\n")
    (tmp_path / "serving.properties").write_text("option.my_var=3\nminWorkers=2\n")
    found = run(str(tmp_path), "--json")
    content = json.loads(found.stdout)
    assert (found.exit_code, content["backend"], content["workers"]) == (0, "custom", 2)
    assert content["options"]["option.my_var"]["value"] == "3"
