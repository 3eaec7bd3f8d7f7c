# SPDX-License-Identifier: Apache-2.0
"""Which Python file a model brings and what it is, judged without running it."""

from pathlib import Path

import pytest

from lmi.api import ArtifactError
from lmi.config import read_settings
from lmi.custom.model_file import Kind, find_model_file
from lmi.custom.source import PACKAGE_HOOKS
from tests.core.scripts import FILTER, HANDLE, Folder, codes, kept


@pytest.fixture
def find(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ------------------------------------------------------------------------------------------------------ what it is


def test_a_folder_without_python_has_no_file(find: Folder) -> None:
    assert find().file is None
    assert find_model_file(None, read_settings(model_folder=None, environ={}, flags={}), {}).file is None


def test_a_file_with_handle_is_a_custom_handler(find: Folder, tmp_path: Path) -> None:
    file = kept(find("raise SystemExit('this must not run')\n" + HANDLE))
    assert (file.kind, file.function, file.path) == (Kind.CUSTOM, "handle", str(tmp_path / "model.py"))
    assert (file.runs_in_worker, file.runs_in_server) == (True, False)


@pytest.mark.parametrize(
    "code",
    [
        "async def handle(inputs): ...",
        "from lib import handle",
        "import lib as handle",
        "handle = lib.Service().handle",
        "handle: object = print",
        "if True:\n    def handle(inputs): ...",
        "try:\n    import torch\nexcept ImportError:\n    def handle(inputs): ...",
        "first, handle = make()",
    ],
)
def test_whatever_binds_the_name_handle_counts(find: Folder, code: str) -> None:
    assert kept(find(code)).kind is Kind.CUSTOM


def test_a_name_inside_a_function_or_class_does_not_count(find: Folder) -> None:
    with pytest.raises(ArtifactError):
        find("class Model:\n    def handle(self, inputs): ...\n")


def test_another_function_may_be_named(find: Folder) -> None:
    assert kept(find("def predict(inputs): ...", handler="predict")).function == "predict"


def test_a_file_with_hooks_is_an_extension(find: Folder) -> None:
    file = kept(find(FILTER))
    assert (file.kind, file.hooks) == (Kind.EXTENSION, ("lmi_filter_text",))
    assert (file.runs_in_worker, file.runs_in_server) == (False, True)


def test_a_hook_of_the_engine_runs_in_the_worker_alone(find: Folder) -> None:
    file = kept(find(FILTER.replace("lmi_filter_text(text)", "lmi_generate_batch(engine, requests)")))
    assert (file.runs_in_worker, file.runs_in_server) == (True, False)


def test_a_hook_may_have_another_function_name(find: Folder) -> None:
    code = "import lmi.api\n@lmi.api.hookimpl(specname='lmi_filter_text')\ndef redact(text): ...\n"
    assert kept(find(code)).hooks == ("lmi_filter_text",)


def test_a_marked_formatter_is_an_extension(find: Folder) -> None:
    code = (
        "from djl_python.output_formatter import output_formatter\n@output_formatter\ndef write(request_output): ...\n"
    )
    file = kept(find(code))
    assert (file.kind, file.formatter, file.runs_in_server) == (Kind.EXTENSION, "write", True)


def test_a_formatter_may_be_named_by_its_option_which_is_then_used_up(find: Folder) -> None:
    found = find("def write(request_output): ...", output_formatter="write")
    assert (kept(found).formatter, "option.output_formatter" in found.settings) == ("write", False)


def test_a_form_that_lmi_knows_is_left_to_lmi(find: Folder) -> None:
    found = find(FILTER, output_formatter="jsonlines")
    assert (kept(found).formatter, found.settings.text("output_formatter")) == ("", "jsonlines")


# ------------------------------------------------------------------------------------------------- entry points


def test_an_entry_point_names_another_file_and_is_then_used_up(find: Folder, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(HANDLE)
    found = find("raise", entryPoint="other.py")
    assert kept(found).path == str(tmp_path / "other.py")
    assert "option.entryPoint" not in found.settings


def test_the_predecessors_variable_names_an_entry_point_where_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text(HANDLE)
    (tmp_path / "flag.py").write_text(HANDLE)
    environ = {"DJL_ENTRY_POINT": "env.py"}
    settings = read_settings(model_folder=tmp_path, environ=environ, flags={})
    assert kept(find_model_file(tmp_path, settings, {})).name == "env.py"
    settings = read_settings(model_folder=tmp_path, environ=environ, flags={"entryPoint": "flag.py"})
    assert kept(find_model_file(tmp_path, settings, {})).name == "flag.py"


def test_an_entry_point_may_be_an_absolute_path(find: Folder, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "serve.py").write_text(HANDLE)
    assert kept(find(entryPoint=str(tmp_path / "far" / "serve.py"))).name == "serve.py"


def test_an_entry_point_that_names_a_backend_leaves_the_handler_unused_and_says_so(find: Folder) -> None:
    found = find(HANDLE, entryPoint="pack.acme")
    assert found.file is None
    assert [each.code for each in found.warnings] == ["script.unused"]
    assert "handle of model.py is not used: option.entryPoint=pack.acme serves the model" in str(found.warnings[0])
    assert found.settings.text("entryPoint") == "pack.acme"


def test_an_entry_point_that_names_a_backend_keeps_hooks_and_formatters(find: Folder) -> None:
    assert kept(find(FILTER, entryPoint="pack.acme")).kind is Kind.EXTENSION
    assert find("x = 1", entryPoint="pack.acme").file is None


def test_an_entry_point_that_does_not_exist_names_the_nearest_file(find: Folder, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(HANDLE)
    with pytest.raises(ArtifactError, match=r"there is no file .*/serv\.py .*Did you mean 'serve\.py'\?") as error:
        find(entryPoint="serv.py")
    assert codes(error) == ["script.missing"]


def test_an_entry_point_is_not_fetched(find: Folder) -> None:
    with pytest.raises(ArtifactError, match="are not fetched from elsewhere") as error:
        find(entryPoint="https://example.com/model.py")
    assert codes(error) == ["script.missing"]


# ------------------------------------------------------------------------------------------------------- problems


def test_a_file_with_neither_says_what_it_defines_and_what_is_expected(find: Folder) -> None:
    with pytest.raises(ArtifactError) as error:
        find("import json\ndef load(): ...\n")
    assert codes(error) == ["script.nothing"]
    assert (
        "model.py has neither a hook (lmi_*) nor the function handle; it defines json, load. "
        "Write handle(inputs), write hooks, or take the file out of the model."
    ) in str(error.value)


def test_a_misspelt_function_is_found_by_its_nearest_name(find: Folder) -> None:
    with pytest.raises(ArtifactError, match=r"function predict \(option\.handler, .*\).*Did you mean 'predicts'\?"):
        find("def predicts(inputs): ...", handler="predict")


def test_a_file_with_both_is_not_guessed_at(find: Folder) -> None:
    with pytest.raises(ArtifactError, match=r"has hooks \(lmi_filter_text\) and the function handle") as error:
        find(FILTER + HANDLE)
    assert codes(error) == ["script.both"]


def test_every_hook_is_known_to_be_for_a_model_or_not() -> None:
    """A new hook must be put into one of the three sets of lmi.custom.source."""
    assert sorted(PACKAGE_HOOKS) == [
        "lmi_check_engine", "lmi_compile_artifacts", "lmi_config_type", "lmi_describe_backend",
        "lmi_register_commands",
    ]  # fmt: skip


def test_every_wrong_hook_is_reported_with_its_line(find: Folder) -> None:
    code = (
        "from lmi.api import hookimpl\n"
        "@hookimpl\ndef lmi_filter_txt(text): ...\n"
        "def lmi_filter_request(request): ...\n"
        "@hookimpl\ndef lmi_describe_backend(): ...\n"
    )
    with pytest.raises(ArtifactError) as error:
        find(code)
    assert codes(error) == ["plugin.bad-hooks"] * 3
    text = str(error.value)
    assert "there is no hook 'lmi_filter_txt' (model.py:3). Did you mean 'lmi_filter_text'?" in text
    assert "lmi_filter_request lacks its @hookimpl, so it would not be called (model.py:4)" in text
    assert "lmi_describe_backend is called before a model is known, so a model cannot bring it (model.py:6)" in text


def test_what_is_no_python_names_the_line(find: Folder) -> None:
    with pytest.raises(ArtifactError, match=r"model\.py is not Python: .* \(model\.py:2\)") as error:
        find("x = 1\ndef handle(\n")
    assert codes(error) == ["script.syntax"]


def test_what_cannot_be_read_is_a_problem(find: Folder) -> None:
    with pytest.raises(ArtifactError) as error:
        find("x = '\0'")
    assert codes(error) == ["script.syntax"]


def test_a_formatter_that_does_not_exist_names_the_nearest(find: Folder) -> None:
    with pytest.raises(ArtifactError, match=r"model\.py has no such function. Did you mean 'write_tokens'\?") as error:
        find(FILTER + "def write_tokens(o): ...", output_formatter="write_token")
    assert codes(error) == ["script.no-formatter"]


def test_two_marked_formatters_are_not_guessed_between(find: Folder) -> None:
    code = "@output_formatter\ndef one(o): ...\n@output_formatter\ndef two(o): ...\n"
    with pytest.raises(ArtifactError, match="one, two are all marked @output_formatter"):
        find(code)


def test_an_input_formatter_is_told_what_to_write_instead(find: Folder) -> None:
    with pytest.raises(ArtifactError, match="Write the hook lmi_parse_request instead") as error:
        find("@input_formatter\ndef read(input_item): ...\n" + HANDLE)
    assert codes(error) == ["script.unsupported"]


def test_a_formatter_beside_a_handler_is_unused_and_says_so(find: Folder) -> None:
    found = find(HANDLE + "@output_formatter\ndef write(o): ...\n")
    assert kept(found).kind is Kind.CUSTOM
    assert "write of model.py is not used: handle writes its answers itself" in str(found.warnings[0])


# ---------------------------------------------------------------------------------------------------- secure mode

SECURE = {"SAGEMAKER_SECURE_MODE": "True", "SAGEMAKER_SECURITY_CONTROLS": "X, DISALLOW_CUSTOM_INFERENCE_SCRIPTS"}


def test_secure_mode_forbids_scripts_and_names_the_file_and_the_variable(find: Folder, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as error:
        find(HANDLE, SECURE)
    assert codes(error) == ["script.forbidden"]
    assert (
        f"{tmp_path}/model.py is a script, and SAGEMAKER_SECURITY_CONTROLS has DISALLOW_CUSTOM_INFERENCE_SCRIPTS while "
        "SAGEMAKER_SECURE_MODE is on"
    ) in str(error.value)


def test_secure_mode_forbids_what_an_entry_point_names_and_what_lies_about(find: Folder, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(HANDLE)
    (tmp_path / "adapters" / "a").mkdir(parents=True)
    (tmp_path / "adapters" / "a" / "model.py").write_text("")
    channel = tmp_path / "channel" / "deep"
    channel.mkdir(parents=True)
    (channel / "model.py").write_text("")
    environ = SECURE | {"SAGEMAKER_UNTRUSTED_CHANNELS": f"{channel.parent},/no/such"}
    with pytest.raises(ArtifactError) as error:
        find(HANDLE, environ, entryPoint="other.py")
    found = [str(Path(problem.path).relative_to(tmp_path)) for problem in error.value.problems]
    assert found == ["adapters/a/model.py", "channel/deep/model.py", "model.py", "other.py"]


@pytest.mark.parametrize(
    "environ",
    [
        {**SECURE, "SAGEMAKER_SECURE_MODE": "false"},
        {**SECURE, "SAGEMAKER_SECURITY_CONTROLS": "DISALLOW_PICKLE_FILES"},
        {"SAGEMAKER_SECURE_MODE": "true"},
    ],
)
def test_scripts_are_allowed_unless_mode_and_control_are_both_on(find: Folder, environ: dict[str, str]) -> None:
    assert kept(find(HANDLE, environ)).kind is Kind.CUSTOM


def test_secure_mode_does_not_mind_a_folder_without_scripts(find: Folder) -> None:
    assert find(None, SECURE, entryPoint="pack.acme").file is None
