# SPDX-License-Identifier: Apache-2.0
"""The grammar of load_models, and which models a folder holds."""

import pytest

from lmi.api import ConfigError
from lmi.config.model_entries import models_in, name_of, parse_load_models

SOURCE = "SERVING_LOAD_MODELS"


@pytest.mark.parametrize(
    ("text", "name", "version", "url", "settings"),
    [
        ("test::Python=/opt/ml/model", "test", "", "/opt/ml/model", {"engine": "Python"}),
        ("test::MPI=/opt/ml/model", "test", "", "/opt/ml/model", {"engine": "MPI"}),
        ("test=/m", "test", "", "/m", {}),
        ("[test]=/m", "test", "", "/m", {}),
        ("test:v1=/m", "test", "v1", "/m", {}),
        (
            "[test:v1:Python:gpu0;gpu1]=s3://bucket/m/",
            "test",
            "v1",
            "s3://bucket/m/",
            {"engine": "Python", "load_on_devices": "gpu0;gpu1"},
        ),
        ("test:::*=/m", "test", "", "/m", {"load_on_devices": "*"}),
        ("::Python=/models/llama-7b", "llama_7b", "", "/models/llama-7b", {"engine": "Python"}),
        ("/models/llama", "llama", "", "/models/llama", {}),
        ("file:///models/llama", "llama", "", "/models/llama", {}),
        ("/models/a=b", "a_b", "", "/models/a=b", {}),
        ("test=s3://bucket/m?versionId=3", "test", "", "s3://bucket/m?versionId=3", {}),
        ("org/model", "model", "", "org/model", {}),
    ],
)
def test_an_entry_is_read(text, name, version, url, settings):
    [entry] = parse_load_models(text, SOURCE)
    assert (entry.name, entry.version, entry.url) == (name, version, url)
    assert {each.key: each.value for each in entry.settings} == settings
    assert {each.source for each in entry.settings} <= {SOURCE}


@pytest.mark.parametrize("text", ["a=/x,b=/y", "a=/x b=/y", " a=/x ,\n b=/y, "])
def test_entries_are_separated_by_commas_and_blanks(text):
    assert [(each.name, each.url) for each in parse_load_models(text, SOURCE)] == [("a", "/x"), ("b", "/y")]


def test_everything_that_is_no_entry_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_load_models("a:1:Python:*:more=/x b=/y c=", SOURCE)
    assert [problem.code for problem in caught.value.problems] == ["config.bad-model-entry"] * 2
    assert "'a:1:Python:*:more=/x' in load_models is no [NAME[:VERSION" in str(caught.value)
    assert SOURCE in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (",,", "Write it like test::Python=/opt/ml/model"),
        ("test:Python=/m", "Python stands where the version belongs: test::Python=URL"),
        ("test::Python:/m", "The names end with = before the URL"),
        ("test:/m", "The names end with = before the URL"),
    ],
)
def test_an_entry_that_was_meant_otherwise_says_how(text, hint):
    with pytest.raises(ConfigError) as caught:
        parse_load_models(text, SOURCE)
    [problem] = caught.value.problems
    assert problem.code == "config.bad-model-entry" and problem.hint.startswith(hint)


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"/x and /y are both called 'a'"):
        parse_load_models("a:1=/x,a:2=/y", SOURCE)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/opt/ml/model", "model"),
        ("/models/Llama-2.7b/", "Llama_2_7b"),
        ("s3://bucket/m.tar.gz", "m"),
        ("s3://bucket/prefix/*", "prefix"),
        ("/models/_private", "_private"),
        ("/", "model"),
    ],
)
def test_a_model_without_a_name_is_called_after_its_url(url, name):
    assert name_of(url) == name


def test_a_folder_of_folders_and_archives_holds_a_model_each(tmp_path):
    for name in ("a", "b", ".hidden", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / ".gitkeep").write_text("")
    for name in ("a/config.json", "b/config.json", "c.tar.gz", ".DS_Store"):
        (tmp_path / name).write_text("{}")
    assert [(each.name, each.url) for each in models_in(tmp_path, "")] == [
        ("a", str(tmp_path / "a")),
        ("b", str(tmp_path / "b")),
        ("c", str(tmp_path / "c.tar.gz")),
    ]


def test_a_folder_with_any_other_file_is_one_model(tmp_path):
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (folder / "serving.properties").write_text("")
    assert [(each.name, each.url) for each in models_in(folder, "")] == [("model", str(folder))]


def test_an_empty_folder_holds_no_model(tmp_path):
    (tmp_path / ".cache").mkdir()
    assert models_in(tmp_path, "") == []
