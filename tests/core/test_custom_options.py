# SPDX-License-Identifier: Apache-2.0
"""What becomes of a model's own Python file: its plan, its options, and its import."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.api import ConfigError, EngineLoadError, PluginError, Target
from lmi.config.model_entries import ModelEntry
from lmi.custom.extension import ModelExtension
from lmi.custom.importing import function_of, import_file
from lmi.custom.options import parse_custom
from lmi.loading import plan
from lmi.plugins import Plugins
from tests.core.scripts import FILTER, HANDLE, Folder, kept


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported here is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def find(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ------------------------------------------------------------------------------------------------------- planning


def test_a_folder_with_nothing_but_configuration_and_code_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(FILTER)
    (tmp_path / "serving.properties").write_text("job_queue_size=5\n")
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    with pytest.raises(ConfigError) as error:
        plan(ModelEntry(url=str(tmp_path)), flags={}, environ={}, plugins=plugins)
    assert error.value.code == "config.no-model"


def test_a_custom_handler_needs_no_backend(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(HANDLE)
    made = plan(ModelEntry(url=str(tmp_path)), flags={"my_var": "1"}, environ={}, plugins=Plugins([], {}))
    assert (made.info.name, made.reason) == ("custom", "model.py has the function handle")
    assert made.serves_whole_requests
    assert made.model_file is not None
    assert made.model_file.properties["my_var"] == "1"


# -------------------------------------------------------------------------------------------------------- options


def parse(find: Folder, tmp_path: Path, **options: str):
    found = find(HANDLE, **options)
    return parse_custom(found.settings, kept(found), tmp_path, Target())


def test_every_option_reaches_the_function_with_and_without_its_prefix(find: Folder, tmp_path: Path) -> None:
    file, parsed = parse(find, tmp_path, my_var="value", tensor_parallel_degree="max", engine="Python", minWorkers="2")
    told = file.properties
    assert told["my_var"] == told["option.my_var"] == "value"
    assert told["tensor_parallel_degree"] == "max"
    assert (told["model_dir"], told["device_id"], told["engine"]) == (str(tmp_path), "-1", "Python")
    assert parsed.options.min_workers == 2


def test_lmis_own_options_are_still_checked(find: Folder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'minWorkers' is 'many'; it must be a whole number"):
        parse(find, tmp_path, minWorkers="many")


def test_an_option_that_is_nearly_one_of_lmi_is_passed_on_with_a_warning(find: Folder, tmp_path: Path) -> None:
    file, parsed = parse(find, tmp_path, predict_timout="5", my_timeout="6")
    assert file.properties["predict_timout"] == "5"
    [warning] = parsed.warnings
    assert "'option.predict_timout' is not an option of LMI; the model gets it as it is" in str(warning)
    assert "Did you mean 'option.predict_timeout'?" in str(warning)


def test_dynamic_batching_is_refused(find: Folder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'batch_size' is '4'; the function is called with one request at a time"):
        parse(find, tmp_path, batch_size="4")
    assert "batch_size" not in parse(find, tmp_path, batch_size="1")[0].properties


@pytest.mark.parametrize("options", [{"engine": "MPI"}, {"mpi_mode": "true"}, {"engine": "DeepSpeed"}])
def test_a_function_in_several_processes_is_refused(find: Folder, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_degree=2 under MPI needs a process for each part"):
        parse(find, tmp_path, tensor_parallel_degree="2", **options)
    assert parse(find, tmp_path, tensor_parallel_degree="1", **options)[0].properties["tensor_parallel_degree"] == "1"


def test_requirements_beside_the_file_are_not_installed_and_a_warning_says_so(find: Folder, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("left-pad\n")
    _, parsed = parse(find, tmp_path)
    assert [each.code for each in parsed.warnings] == ["requirements.not-installed"]
    assert f"-m pip install -r {tmp_path}/requirements.txt" in parsed.warnings[0].hint
    assert parse(find, tmp_path, install_requirements="true")[1].warnings == []


# -------------------------------------------------------------------------------------------------------- importing


def test_an_import_that_fails_names_the_line_and_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("\nimport no_such_library\n")
    with pytest.raises(EngineLoadError) as error:
        import_file(path, "a_model")
    assert "model.py cannot be imported: ModuleNotFoundError: No module named 'no_such_library' (model.py:2)" in str(
        error.value
    )
    assert "Install no_such_library into" in error.value.hint


def test_a_module_of_the_predecessor_that_is_not_here_names_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("from djl_python.huggingface import Service\n")
    with pytest.raises(EngineLoadError, match="LMI has Input, Output, output_formatter, request_io and encode_decode"):
        import_file(path, "a_model")


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_model.py").write_text("VALUE = 7\n")
    (tmp_path / "model.py").write_text("from beside_the_model import VALUE\n")
    assert import_file(tmp_path / "model.py", "a_model").VALUE == 7


def test_what_cannot_be_called_is_no_function(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("handle = None\n")
    with pytest.raises(EngineLoadError, match=r"handle of a_model\.py is None, which cannot be called"):
        function_of(import_file(tmp_path / "model.py", "a_model"), "handle")


def test_a_hook_with_a_parameter_that_does_not_exist_is_refused_at_the_start(find: Folder) -> None:
    with pytest.raises(PluginError, match=r"model\.py") as error:
        ModelExtension(kept(find(FILTER.replace("(text)", "(txt)"))))
    assert error.value.code == "plugin.bad-hooks"
