# SPDX-License-Identifier: Apache-2.0
"""What may run, or be read in a way that runs it: SageMaker's secure mode, and the defaults of every backend."""

import json
import re
from pathlib import Path

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.artifacts.formats import detect
from lmi.config import Settings
from lmi.config.settings import Setting
from lmi.custom.secure_mode import secure_problems
from lmi.plugins import Plugins
from tests.core.model_folders import write_model

ROOT = Path(__file__).parents[2]
CODE = Setting("option.trust_remote_code", "true", "serving.properties:2")
CONTROLS = {
    "DISALLOW_TRUST_REMOTE_CODE": "option.trust_remote_code=true",
    "DISALLOW_PICKLE_FILES": "{folder}/old.BIN is a pickle",
    "DISALLOW_CHAT_TEMPLATE": "{folder}/tokenizer_config.json has a chat template",
    "DISALLOW_REQUIREMENTS_TXT": "{folder}/requirements.txt is there",
}


def secure(*controls):
    return {"SAGEMAKER_SECURE_MODE": "True", "SAGEMAKER_SECURITY_CONTROLS": ", ".join(controls)}


@pytest.fixture
def folder(tmp_path):
    """A model with something of everything that can be forbidden."""
    made = write_model(tmp_path / "model")
    (made / "old.BIN").write_bytes(b"")
    (made / "requirements.txt").write_text("")
    (made / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return made


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("is_detected", [True, False])
def test_each_control_names_what_it_forbids_and_itself(folder, control, is_detected):
    artifacts = detect(folder) if is_detected else None
    (problem,) = secure_problems(artifacts, folder, Settings([CODE]), secure("X", control))
    assert problem.code == "model.forbidden"
    assert problem.message == (
        f"{CONTROLS[control].format(folder=folder)}, and SAGEMAKER_SECURITY_CONTROLS has {control} while "
        "SAGEMAKER_SECURE_MODE is on"
    )
    assert problem.path or problem.source == "serving.properties:2"


@pytest.mark.parametrize(
    "environ", [{}, {**secure(*CONTROLS), "SAGEMAKER_SECURE_MODE": "false"}, secure("X"), secure()]
)
def test_nothing_is_forbidden_unless_mode_and_control_are_both_on(folder, environ):
    assert secure_problems(detect(folder), folder, Settings([CODE]), environ) == []


def test_a_clean_model_passes_every_control(tmp_path):
    folder = write_model(tmp_path)
    off = Setting("option.trust_remote_code", "false", "OPTION_TRUST_REMOTE_CODE")
    assert secure_problems(detect(folder), folder, Settings([off]), secure(*CONTROLS)) == []


TEMPLATES = {
    "in the tokenizer": ({"tokenizer_config.json": {"chat_template": [{"name": "a", "template": "x"}]}}, True),
    "a file of its own": ({"chat_template.jinja": "x"}, True),
    "a json file": ({"chat_template.json": {}}, True),
    "a further one": ({"additional_chat_templates/tool.jinja": "x"}, True),
    "in a repository": ({"repo/tokenizer_config.json": {"chat_template": "x"}}, True),
    "empty": ({"tokenizer_config.json": {"chat_template": ""}}, False),
    "none": ({"tokenizer_config.json": {}}, False),
    "no json": ({"tokenizer_config.json": "{"}, False),
}


@pytest.mark.parametrize(("files", "is_one"), TEMPLATES.values(), ids=TEMPLATES)
def test_chat_templates_are_found_wherever_they_can_be(tmp_path, files, is_one):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    elsewhere = ModelArtifacts(
        folder="s3://bucket/model", format=ArtifactFormat.PRETRAINED, files=dict.fromkeys(files, 1),
        documents={name: content for name, content in files.items() if not isinstance(content, str)},
    )  # fmt: skip
    for artifacts, folder in ((None, tmp_path), (elsewhere, None)):
        problems = secure_problems(artifacts, folder, Settings(), secure("DISALLOW_CHAT_TEMPLATE"))
        assert bool(problems) is is_one


def test_a_chat_template_of_the_configuration_counts_too(tmp_path):
    template = Setting("option.chat_template", "own.jinja", "serving.properties:3")
    folder = write_model(tmp_path)
    (problem,) = secure_problems(detect(folder), folder, Settings([template]), secure(*CONTROLS))
    assert (problem.code, problem.source) == ("model.forbidden", "serving.properties:3")
    assert problem.message.startswith("option.chat_template is set, and SAGEMAKER_SECURITY_CONTROLS has DISALLOW_CHAT")
    assert secure_problems(detect(folder), folder, Settings([template]), secure("DISALLOW_PICKLE_FILES")) == []


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_every_kind_of_pickle_is_found_in_folders_that_are_not_trusted(tmp_path, suffix):
    deep = tmp_path / "channel" / "deep" / ".hidden"
    deep.mkdir(parents=True)
    (deep / f"weights{suffix}").write_bytes(b"")
    environ = secure("DISALLOW_PICKLE_FILES") | {"SAGEMAKER_UNTRUSTED_CHANNELS": f"/no/such, {tmp_path / 'channel'}"}
    (problem,) = secure_problems(None, None, Settings(), environ)
    assert problem.path == f"{deep}/weights{suffix}"


# defaults


@pytest.mark.parametrize("name", [".hidden/weights.pkl", "1/2/3/4/5/6/7/weights.pkl"])
def test_what_the_listing_of_the_model_leaves_out_is_looked_at_too(folder, name):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"")
    problems = secure_problems(detect(folder), folder, Settings(), secure("DISALLOW_PICKLE_FILES"))
    assert str(folder / name) in [problem.path for problem in problems]


def test_no_backend_trusts_a_models_code_unless_it_is_told_to():
    types = Plugins.discover({}).config_types()
    have = {name for name, each in types.items() if "trust_remote_code" in each.model_fields}
    assert have, "no installed backend has the option"
    assert [name for name in have if types[name].model_fields["trust_remote_code"].default is not False] == []


def test_no_pickle_is_loaded_with_more_than_its_weights():
    call = re.compile(r"torch\.load\(|pickle\.(loads?|Unpickler)\(|joblib\.load\(|cloudpickle\.loads?\(")
    sources = [*(ROOT / "core/src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    lines = [line for path in sources for line in path.read_text().splitlines() if call.search(line)]
    assert [line for line in lines if "weights_only=True" not in line] == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("option.mpi_arguments", "-x LD_PRELOAD=/opt/ml/model/evil.so", "option.mpi_arguments is set"),
        ("option.env", "A=b,LD_PRELOAD=/x.so,PATH=/x", "option.env sets LD_PRELOAD, PATH"),
        ("option.env", '{"SAGEMAKER_SECURE_MODE": "false"}', "option.env sets SAGEMAKER_SECURE_MODE"),
        ("option.pythonExecutable", "{folder}/bin/python", "option.pythonExecutable={folder}/bin/python is a file"),
        ("option.tool_parser_plugin", "{folder}/tools.py", "option.tool_parser_plugin={folder}/tools.py is a file"),
        ("option.tool_parser_plugin", "{channel}/tools.py", "option.tool_parser_plugin={channel}/tools.py is a file"),
    ],
)
def test_where_scripts_are_forbidden_so_are_options_that_bring_code_along(tmp_path, key, value, told):
    folder, channel = write_model(tmp_path / "model"), tmp_path / "channel"
    channel.mkdir()
    value, told = (each.replace("{folder}", str(folder)).replace("{channel}", str(channel)) for each in (value, told))
    environ = {**secure("DISALLOW_CUSTOM_INFERENCE_SCRIPTS"), "SAGEMAKER_UNTRUSTED_CHANNELS": str(channel)}
    settings = Settings([Setting(key, value, "serving.properties:3")])
    (problem,) = secure_problems(detect(folder), folder, settings, environ)
    assert problem.message.startswith(told)
    assert (problem.code, problem.source) == ("model.forbidden", "serving.properties:3")
    assert secure_problems(detect(folder), folder, settings, secure("DISALLOW_PICKLE_FILES")) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("option.env", "OMP_NUM_THREADS=1"),
        ("option.pythonExecutable", "/opt/venv/bin/python"),
        ("option.tool_parser_plugin", "/opt/plugins/tools.py"),
    ],
)
def test_options_that_name_what_the_image_has_are_none_of_those(tmp_path, key, value):
    folder = write_model(tmp_path / "model")
    settings = Settings([Setting(key, value, "serving.properties:3")])
    assert secure_problems(detect(folder), folder, settings, secure("DISALLOW_CUSTOM_INFERENCE_SCRIPTS")) == []
