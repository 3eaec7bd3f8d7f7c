# SPDX-License-Identifier: Apache-2.0
"""`lmi config`: what holds, where it was set, what it overrode, and everything that is wrong."""

import json

import pytest
from click.testing import CliRunner

from lmi.cli.config import config
from tests.core.model_folders import write_model


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


def lines_of_set(done):
    return [line for line in done.stdout.splitlines() if "MODEL_ID" not in line and "model_id" not in line]


def test_what_is_set_can_be_had_as_variables_and_as_a_file(run, folder):
    (folder / "serving.properties").write_text("option.rolling_batch=echo\nminWorkers=2\n")
    assert run(str(folder), "--env").stdout.splitlines() == [
        f"OPTION_MODEL_ID={folder}", "OPTION_ROLLING_BATCH=echo", "SERVING_MINWORKERS=2",
    ]  # fmt: skip
    assert run(str(folder), "--properties").stdout.splitlines() == [
        "minWorkers=2", f"option.model_id={folder}", "option.rolling_batch=echo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "variable"),
    [
        ("option.tensor_parallel_degree=max", "OPTION_TENSOR_PARALLEL_DEGREE=max"),
        ("gpu.minWorkers=2", "SERVING_GPU_MINWORKERS=2"),
        ("option.dtype=FP16", "OPTION_DTYPE=FP16"),
        ("option.model_loading_timeout=0600", "OPTION_MODEL_LOADING_TIMEOUT=0600"),
        ("engine=Python", "OPTION_ENGINE=Python"),
    ],
)
def test_values_are_printed_as_they_were_written_whatever_the_machine(run, folder, written, variable):
    (folder / "serving.properties").write_text(f"option.rolling_batch=vllm\n{written}\n")
    for form, line in (("--properties", written), ("--env", variable)):
        done = run(str(folder), "--devices", "cuda:4", form)
        others = [each for each in lines_of_set(done) if "rolling_batch" not in each.lower()]
        assert others == [line]


def test_workers_of_a_kind_of_device_leave_the_other_ones_as_they_were(run, folder):
    (folder / "serving.properties").write_text("option.rolling_batch=vllm\ngpu.minWorkers=2\nminWorkers=1\n")
    found = run(str(folder), "--devices", "cuda:4", "--properties")
    assert {"gpu.minWorkers=2", "minWorkers=1"} <= set(found.stdout.splitlines())


def test_what_was_said_on_the_command_line_is_not_lost(run, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    found = run(folder.name, "-o", "max_model_len=9", "--name", "mine", "--env")
    assert {f"OPTION_MODEL_ID={folder}", "OPTION_MAX_MODEL_LEN=9", "# lmi serve --name mine"} <= set(
        found.stdout.splitlines()
    )
    hub = run("org/name", "-o", "rolling_batch=vllm", "--devices", "cuda:1", "--properties")
    assert "option.model_id=org/name" in hub.stdout


def test_what_holds_is_read_back_from_either_form(run, folder):
    write_model(folder)
    (folder / "serving.properties").write_text(
        "option.rolling_batch=vllm\noption.max_model_len=100\noption.chat_template=a \\# b\noption.env=A=1\n"
    )
    wanted = json.loads(run(str(folder), "--devices", "cuda:1", "--json").stdout)["options"]
    text = run(str(folder), "--devices", "cuda:1", "--properties").stdout
    environ = dict(line.split("=", 1) for line in run(str(folder), "--devices", "cuda:1", "--env").stdout.splitlines())
    (folder / "serving.properties").write_text(text)
    by_file = json.loads(run(str(folder), "--devices", "cuda:1", "--json").stdout)["options"]
    (folder / "serving.properties").unlink()
    by_variables = json.loads(run("--devices", "cuda:1", "--json", **environ).stdout)["options"]
    for found in (by_file, by_variables):
        values = {key: each["value"] for key, each in found.items() if key != "option.model_id"}
        assert values == {key: each["value"] for key, each in wanted.items() if key != "option.model_id"}


def test_a_secret_is_not_written_and_the_variable_for_it_is_named(run, folder):
    found = run(str(folder), "--env")
    assert "HF_TOKEN" not in found.stdout
    assert "not written: option.hf_token (serving.properties:4): it holds a secret" in found.stderr
    assert "Set OPTION_HF_TOKEN" in found.stderr


def test_a_value_of_several_lines_is_no_variable_and_the_exit_code_says_so(run, folder):
    write_model(folder)
    (folder / "serving.properties").write_text("option.rolling_batch=vllm\noption.chat_template=a\\nb\n")
    found = run(str(folder), "--devices", "cuda:1", "--env")
    assert (found.exit_code, "CHAT_TEMPLATE" in found.stdout) == (1, False)
    assert "set OPTION_CHAT_TEMPLATE=@/absolute/path/of/it" in found.stderr
    whole = run(str(folder), "--devices", "cuda:1", "--properties")
    assert (whole.exit_code, "option.chat_template=a\\nb" in whole.stdout) == (0, True)


def test_two_forms_at_once_are_refused(run, folder):
    assert run(str(folder), "--env", "--json").exit_code == 2


@pytest.mark.parametrize("flags", [[], ["--all"]])
def test_the_table_has_numbers_as_people_write_them(run, flags):
    found = run("-o", "rolling_batch=echo", "-o", "model_loading_timeout=3600", *flags)
    rows = [line.split() for line in found.stdout.splitlines()]
    assert ["option.model_loading_timeout", "3600"] in [row[:2] for row in rows]
    if flags:
        assert ["option.revision", "unset", "default"] in rows


def test_unset_values_are_null_in_json(run):
    content = json.loads(run("-o", "rolling_batch=echo", "--json").stdout)["options"]
    assert content["option.revision"] == {"value": None, "source": "default", "overrode": []}
    assert content["option.predict_timeout"]["value"] is None


# ------------------------------------------------------------------------------------------------------- several models


@pytest.fixture
def store(tmp_path):
    for name, line in (("a", "option.max_model_len=12"), ("b", "option.max_modl_len=13")):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "serving.properties").write_text(f"option.rolling_batch=echo\n{line}\n")
    return tmp_path / "store"


@pytest.mark.parametrize("form", [[], ["--env"], ["--properties"]])
def test_of_several_models_each_problem_names_its_own(run, store, form):
    found = run("-s", str(store), *form)
    assert found.exit_code == 1
    assert "error: model 'b': [config.unknown-key] 'option.max_modl_len'" in found.stderr
    assert "model 'a'" not in found.stderr


def test_variables_hold_for_all_models_and_what_does_not_is_a_comment(run, store):
    found = run("-s", str(store), "--env")
    assert found.stdout.splitlines() == [
        f"SERVING_LOAD_MODELS=a={store}/a,b={store}/b", "OPTION_ROLLING_BATCH=echo",
        "", "# model    a", "# OPTION_MAX_MODEL_LEN=12", "", "# model    b", "# OPTION_MAX_MODL_LEN=13",
    ]  # fmt: skip
    assert "note: variables hold for all models of a server" in found.stderr


def test_the_models_that_are_printed_are_the_models_that_were_found(run, store):
    entries = f"x:v1:Python={store}/a,y={store}/b"
    found = run("-m", entries, "--env", SERVING_INFERENCE_ADDRESS="http://127.0.0.1:1")
    assert found.stdout.splitlines()[:3] == [
        "SERVING_INFERENCE_ADDRESS=http://127.0.0.1:1", f"SERVING_LOAD_MODELS={entries}", "OPTION_ROLLING_BATCH=echo",
    ]  # fmt: skip


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
    # Its code lies in the folder that is served, which only an entry names.
    assert run(str(tmp_path), "--env").stdout.splitlines() == [
        f"SERVING_LOAD_MODELS=model={tmp_path}", "OPTION_MY_VAR=3", "SERVING_MINWORKERS=2",
    ]  # fmt: skip
