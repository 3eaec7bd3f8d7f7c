# SPDX-License-Identifier: Apache-2.0
"""Which models a server starts with, and what was written about each."""

import pytest

from lmi.api import ConfigError, Severity
from lmi.config.model_entries import ModelEntry
from lmi.plugins import Plugins
from lmi.reading import read_configuration, read_start
from lmi.resolution import resolve
from tests.core.archive_files import zipped


@pytest.fixture
def store(tmp_path):
    """A model store with two models."""
    for name in ("a", "b"):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "config.json").write_text("{}")
    return tmp_path / "store"


@pytest.fixture
def entries(tmp_path):
    """The names and URLs of the models that a server would load; the container's folder is missing unless given."""

    def _entries(model=None, default_folder=None, **given):
        given = {"environ": {}, "flags": {}, **given}
        start = read_start(model, default_folder=default_folder or tmp_path / "missing", **given)
        return [(entry.name, entry.url) for entry in start.entries]

    return _entries


def test_the_model_of_the_command_line_is_the_only_one(entries, store):
    environ = {"SERVING_LOAD_MODELS": "x=/x", "SERVING_MODEL_STORE": str(store)}
    assert entries("org/model", environ=environ) == [("model", "org/model")]
    assert entries("org/model", environ=environ, name="mine") == [("mine", "org/model")]


def test_load_models_names_them(entries):
    environ = {"SERVING_LOAD_MODELS": "test::Python=/opt/ml/model"}
    assert entries(environ=environ) == [("test", "/opt/ml/model")]
    assert entries(server_flags={"load_models": "a=/a,b=/b"}) == [("a", "/a"), ("b", "/b")]


def test_without_a_word_every_model_of_the_container_is_loaded(entries, store):
    assert entries(default_folder=store) == [("a", str(store / "a")), ("b", str(store / "b"))]


@pytest.mark.parametrize("wanted", ["ALL", "all"])
def test_all_means_every_model_of_the_store(entries, store, wanted):
    environ = {"SERVING_LOAD_MODELS": wanted, "SERVING_MODEL_STORE": str(store)}
    assert [name for name, _ in entries(environ=environ)] == ["a", "b"]


def test_none_loads_nothing_and_all_of_nothing_is_nothing(entries, tmp_path):
    assert entries(environ={"SERVING_LOAD_MODELS": "NONE"}) == []
    (tmp_path / "store").mkdir()
    environ = {"SERVING_LOAD_MODELS": "ALL", "SERVING_MODEL_STORE": str(tmp_path / "store")}
    assert entries(environ=environ) == []


def test_without_anything_the_one_model_is_what_the_configuration_says(entries):
    assert entries() == [("model", None)]


@pytest.mark.parametrize("variable", ["OPTION_MODEL_ID", "HF_MODEL_ID"])
def test_a_model_id_means_one_model_whatever_the_store_holds(entries, store, variable):
    given = {"environ": {variable: "org/model"}, "default_folder": store}
    assert entries(**given) == [("model", str(store))]
    assert entries(environ={variable: "org/model"}) == [("model", None)]


def test_a_store_that_is_no_folder_is_refused_with_where_it_was_named(entries):
    with pytest.raises(ConfigError, match=r"config.no-model-store: model_store=/no/such \(SERVING_MODEL_STORE\)"):
        entries(environ={"SERVING_MODEL_STORE": "/no/such"})


def test_a_pattern_holds_for_every_url(entries):
    environ = {"SERVING_LOAD_MODELS": "a=s3://mine/a,b=/b", "SERVING_MODEL_URL_PATTERN": "s3://mine/.*"}
    with pytest.raises(ConfigError, match=r"config.url-refused: /b does not match model_url_pattern=s3://mine/\.\*"):
        entries(environ=environ)
    with pytest.raises(ConfigError, match="is no regular expression"):
        entries(environ=environ | {"SERVING_MODEL_URL_PATTERN": "("})


def test_the_engine_and_devices_of_an_entry_are_settings_below_the_models_own(tmp_path):
    environ = {"SERVING_LOAD_MODELS": f"test::Python:cpu={tmp_path}", "OPTION_LOAD_ON_DEVICES": "*"}
    (tmp_path / "serving.properties").write_text("engine=MPI")
    start = read_start(None, environ=environ, flags={})
    settings = read_configuration(start.entries[0], environ=environ, flags={}).settings
    assert (settings.text("engine"), settings["engine"].overrode[0].source) == ("MPI", "SERVING_LOAD_MODELS")
    assert settings.text("load_on_devices") == "*"


# --------------------------------------------------------------------------------------- the settings of one model


def written(url=None, *, environ=(), flags=(), **more):
    return read_configuration(ModelEntry(url=url), environ=dict(environ), flags=dict(flags), **more)


def resolved(url, flags=()):
    return resolve(ModelEntry(url=url), flags=dict(flags), environ={}, plugins=Plugins.discover({}))


def codes(found):
    return [problem.code for problem in found.settings.problems]


def test_a_folder_brings_its_file(tmp_path):
    (tmp_path / "serving.properties").write_text("option.dtype=bf16")
    found = written(str(tmp_path))
    assert (found.folder, found.settings.text("dtype")) == (tmp_path, "bf16")


@pytest.mark.parametrize("state", ["missing", "empty", "only hidden files"])
def test_a_folder_without_a_model_gives_way_to_a_model_id(tmp_path, state):
    folder = tmp_path / "model"
    if state != "missing":
        folder.mkdir()
    if state == "only hidden files":
        (folder / ".cache").write_text("")
    found = written(str(folder), environ={"OPTION_MODEL_ID": "org/model"})
    assert (found.folder, found.settings.text("model_id")) == (None, "org/model")
    [problem] = found.settings.problems
    said = "does not exist" if state == "missing" else "is empty"
    assert f"{folder} {said}; org/model is served, as OPTION_MODEL_ID says" in str(problem)


def test_a_missing_folder_that_a_caller_asked_for_gives_way_to_nothing(tmp_path):
    entry = ModelEntry(url=str(tmp_path / "model"), is_asked_for=True)
    found = read_configuration(entry, flags={}, environ={"OPTION_MODEL_ID": "org/model"})
    assert (found.settings.text("model_id"), found.settings.problems) == (entry.url, ())


def test_what_is_no_folder_is_the_models_id(tmp_path):
    found = written("org/model", environ={"OPTION_MODEL_ID": "org/other"})
    assert (found.folder, found.settings.text("model_id")) == (None, "org/model")
    assert written("/no/such/folder").settings.text("model_id") == "/no/such/folder"


def test_a_file_beside_a_model_that_option_model_id_names_is_not_read_and_a_warning_says_so(tmp_path):
    (tmp_path / "serving.properties").write_text("option.dtype=bf16")
    found = written(environ={"OPTION_MODEL_ID": str(tmp_path)}, default_folder=tmp_path / "missing")
    assert "option.dtype" not in found.settings
    [problem] = found.settings.problems
    assert (problem.code, problem.source) == ("config.file-not-read", "OPTION_MODEL_ID")
    assert f"`lmi serve {tmp_path}`" in problem.hint


def test_the_containers_folder_as_foreign_model_id_is_read_and_merged(tmp_path):
    (tmp_path / "serving.properties").write_text("option.dtype=bf16")
    found = written(environ={"HF_MODEL_ID": str(tmp_path), "OPTION_DTYPE": "fp16"}, default_folder=tmp_path)
    assert (found.settings.text("dtype"), codes(found)) == ("bf16", [])


def test_a_folder_whose_model_is_not_served_because_a_variable_names_another_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    found = written(str(tmp_path), environ={"HF_MODEL_ID": "org/other"})
    [problem] = found.settings.problems
    assert (problem.code, problem.severity) == ("config.overruled", Severity.WARNING)
    assert f"the model in {tmp_path} is not served: HF_MODEL_ID names org/other" in problem.message
    assert written(str(tmp_path), environ={"HF_MODEL_ID": str(tmp_path)}).settings.problems == ()


def test_a_file_that_is_hardly_called_as_it_should_be_is_told(tmp_path):
    (tmp_path / "serving.propertis").write_text("option.dtype=bf16")
    [problem] = written(str(tmp_path)).settings.problems
    assert (problem.code, problem.hint) == ("config.file-not-read", "Rename it to serving.properties")


def test_a_model_of_the_command_line_may_be_a_file_url(entries, tmp_path):
    assert entries(f"file://{tmp_path}") == [("model", str(tmp_path))]


@pytest.mark.parametrize("text", ["x" * 300, "/" + "x" * 5000, "a\0b", "~nobody-here/m"])
def test_a_text_that_can_be_no_path_is_none(text):
    assert written(text).settings.text("model_id") == text
    assert written(environ={"HF_MODEL_ID": text}).settings.text("model_id") == text


def test_what_a_start_knows_is_not_printed_with_its_secrets():
    start = read_start("org/model", environ={"HF_TOKEN": "hush"}, flags={"hf_token": "hush"})
    assert "hush" not in repr(start)


# ------------------------------------------------------------------------------------------------ in an object store


def test_a_prefix_brings_the_file_that_lies_there_and_is_the_model(bucket):
    bucket.put("m/serving.properties", "option.dtype=bf16\n")
    for url in ("s3://bucket/m", "s3://bucket/m/", "s3://bucket/m/*"):
        found = written(url)
        assert found.settings["option.dtype"].source == "serving.properties:1"
        assert (found.settings.text("model_id"), codes(found)) == (url, [])


def test_the_file_of_a_prefix_may_name_another_model(bucket):
    bucket.put("m/serving.properties", "option.model_id=org/model\n")
    assert written("s3://bucket/m").settings.text("model_id") == "org/model"


def test_a_prefix_without_a_file_is_a_model_all_the_same(bucket):
    found = written("s3://bucket/other", environ={"OPTION_DTYPE": "fp16"})
    assert (found.settings.text("model_id"), found.settings.text("dtype")) == ("s3://bucket/other", "fp16")


def test_a_prefix_is_listed_once_and_handed_on(bucket):
    bucket.put("m/config.json", "{}")
    found = written("s3://bucket/m")
    assert (found.files.place, set(found.files.sizes)) == ("s3://bucket/m", {"config.json"})
    assert resolved("s3://bucket/m").files is not None
    assert written("s3://bucket/other").files is None


def test_a_prefix_without_anything_is_told_with_what_else_is_wrong(bucket):
    bucket.put("m/config.json", "{}")
    found = resolved("s3://bucket/mm", flags={"rolling_batch": "hf", "dtpye": "fp16"})
    told = {problem.code: problem.message for problem in found.problems}
    assert told["model.not-found"] == "there are no files below s3://bucket/mm"
    assert any("dtpye" in message for message in told.values())


def test_the_file_in_the_one_folder_of_a_prefix_is_read_as_it_is_here(bucket):
    bucket.put("m/inner/serving.properties", "option.dtype=bf16\n=1\n")
    found = written("s3://bucket/m")
    assert (found.settings.text("dtype"), found.files.place) == ("bf16", "s3://bucket/m/inner")
    assert found.settings.problems[0].path == "s3://bucket/m/inner/serving.properties"


def test_the_file_in_a_zip_elsewhere_is_read_where_it_is(bucket, tmp_path):
    archive = zipped(tmp_path / "a.zip", ("serving.properties", b"option.dtype=bf16"), ("config.json", b"{}"))
    bucket.put("m.zip", archive.read_bytes())
    found = written("s3://bucket/m.zip")
    assert (found.folder, found.settings.text("dtype")) == (None, "bf16")


def test_blanks_around_a_model_are_no_part_of_it(entries, tmp_path):
    assert entries(" s3://bucket/m ") == entries("s3://bucket/m")
    assert entries(f"{tmp_path} \n") == [("model", str(tmp_path))]
    assert written(environ={"OPTION_MODEL_ID": " org/model "}).settings.text("model_id") == "org/model"


def test_a_mistake_in_the_file_of_a_prefix_says_where_it_is(bucket):
    bucket.put("m/serving.properties", "=1\n")
    [problem] = written("s3://bucket/m").settings.problems
    assert (problem.code, problem.path) == ("config.bad-line", "s3://bucket/m/serving.properties")


def test_behind_option_model_id_the_file_of_a_prefix_is_not_read_and_a_warning_says_so(bucket, tmp_path):
    bucket.put("m/serving.properties", "option.dtype=bf16\n")
    found = written(environ={"OPTION_MODEL_ID": "s3://bucket/m"}, default_folder=tmp_path / "missing")
    assert ("option.dtype" in found.settings, codes(found)) == (False, ["config.file-not-read"])


def test_a_store_that_cannot_be_reached_is_told_with_what_to_check(monkeypatch):
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(Exception, match=r"model.unreachable: s3://bucket/m cannot be read"):
        written("s3://bucket/m")
