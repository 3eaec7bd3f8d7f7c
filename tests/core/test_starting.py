# SPDX-License-Identifier: Apache-2.0
"""What a server starts with: a model elsewhere is judged where it lies, and fetched only when everything is right."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from lmi.api import ArtifactError, ConfigError
from lmi.plugins import Plugins
from lmi.reading import read_start
from lmi.starting import plan_all
from lmi.testing.checkpoints import write_tiny
from tests.core.progress import untold


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(bucket, tiny):
    """The tiny model at s3://bucket/m, with weights that nobody needs beside it."""
    upload(bucket, tiny, "m")
    bucket.put("m/pytorch_model.bin", b"the same once more")
    bucket.put("m/model.onnx", b"and for others")
    return "s3://bucket/m"


def upload(bucket, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def start(model, environ, progress=untold, **flags):
    flags = {"rolling_batch": "hf", **flags}
    [made] = plan_all(read_start(model, flags=flags, environ=environ), Plugins.discover({}), progress)
    return made


def environ_of(bucket, cache):
    return {**bucket.environ, "LMI_CACHE_DIR": str(cache)}


@pytest.mark.parametrize("ending", ["", "/", "/*"])
def test_a_prefix_is_fetched_without_what_is_not_served(bucket, stored, cache, tiny, ending):
    made = start(stored + ending, environ_of(bucket, cache))
    names = {path.name for path in Path(made.artifacts.folder).iterdir() if not path.name.startswith(".")}
    assert names == {path.name for path in tiny.iterdir()}
    assert cache in Path(made.artifacts.folder).parents
    assert (Path(made.artifacts.folder) / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_the_way_here_is_told_for_each_model(bucket, stored, cache):
    told = []
    start(stored, environ_of(bucket, cache), lambda *moved: told.append(moved))
    assert {name for name, *_ in told} == {"model"}
    assert told[-1][2] == 1.0


def test_a_prefix_that_wraps_a_folder_is_read_as_that_and_its_code_is_told_not_to_run(bucket, cache, tiny):
    upload(bucket, tiny, "outer/inner")
    bucket.put("outer/inner/serving.properties", "option.max_rolling_batch_size=3\n")
    bucket.put("outer/inner/model.py", "")
    made = start("s3://bucket/outer", environ_of(bucket, cache))
    assert made.config.max_rolling_batch_size == 3
    told = {each.path: each.hint for each in made.warnings if each.code == "config.file-not-read"}
    assert list(told) == ["s3://bucket/outer/inner/model.py"]
    assert "option.model_id=s3://bucket/outer" in told["s3://bucket/outer/inner/model.py"]
    again = start("s3://bucket/outer/inner", environ_of(bucket, cache))
    assert again.config.max_rolling_batch_size == 3
    assert [each.path for each in again.warnings if each.code == "config.file-not-read"] == [
        "s3://bucket/outer/inner/model.py"
    ]


def test_nothing_is_fetched_while_the_configuration_is_wrong(bucket, stored, cache):
    with pytest.raises(ConfigError, match=r"Did you mean 'option\.dtype'"):
        start(stored, environ_of(bucket, cache), dtpye="fp16")
    assert not cache.exists()


def test_three_mistakes_of_a_model_elsewhere_are_told_at_once_and_it_is_not_fetched(bucket, stored, cache, tiny):
    bucket.put("m/model.safetensors", (tiny / "model.safetensors").read_bytes()[:-7])
    bucket.delete("m/tokenizer_config.json")
    with pytest.raises(ArtifactError) as caught:
        start(stored, environ_of(bucket, cache), max_model_len="99999999", max_rolling_batch_size="4")
    assert {problem.code for problem in caught.value.problems} >= {
        "weights.truncated", "tokenizer.missing", "config.max-model-len",
    }  # fmt: skip
    assert all("s3://bucket/m" in problem.path for problem in caught.value.problems if problem.path)
    assert not list(cache.rglob("*.safetensors"))


def test_the_second_start_asks_for_no_weight_again(bucket, stored, cache, monkeypatch):
    first = start(stored, environ_of(bucket, cache))
    weights = Path(first.artifacts.folder) / "model.safetensors"
    before = weights.stat()
    again = start(stored, environ_of(bucket, cache))
    assert again.artifacts == first.artifacts
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("name", ["model.tar.gz", "model.zip"])
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_an_archive_is_a_model_and_its_serving_properties_are_read(bucket, cache, tiny, tmp_path, name, is_elsewhere):
    folder = tmp_path / "packed" / "inner"
    shutil.copytree(tiny, folder)
    (folder / "serving.properties").write_text("option.rolling_batch=hf\noption.max_rolling_batch_size=3\n")
    path = tmp_path / name
    if name.endswith(".zip"):
        shutil.make_archive(str(tmp_path / "model"), "zip", folder.parent)
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, arcname="inner")
    where = str(path)
    if is_elsewhere:
        bucket.put(f"packed/{name}", path.read_bytes())
        where = f"s3://bucket/packed/{name}"
    [made] = plan_all(read_start(where, flags={}, environ=environ_of(bucket, cache)), Plugins.discover({}), untold)
    assert made.config.max_rolling_batch_size == 3
    assert Path(made.artifacts.folder).name == "inner"
    assert json.loads((Path(made.artifacts.folder) / "config.json").read_text())["model_type"] == "llama"


def test_a_file_url_is_the_folder(tiny, cache):
    assert start(f"file://{tiny}", {}).artifacts.folder == str(tiny)
