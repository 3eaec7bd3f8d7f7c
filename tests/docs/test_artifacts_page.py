# SPDX-License-Identifier: Apache-2.0
"""docs/artifacts.md: its commands do what it shows, in real processes, against an S3 server and a hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lmi.api.folders import cache_root
from lmi.artifacts import place_of
from lmi.artifacts.places.archives import SUFFIXES
from lmi.artifacts.places.objects import is_object_url
from lmi.artifacts.places.unpacking import Limits
from lmi.custom import secure_mode
from lmi.plugins import Plugins
from lmi.testing.checkpoints import write_tiny
from tests.buckets import Bucket
from tests.core.layouts import layout
from tests.core.model_folders import write_model
from tests.docs.artifacts_page import ERRORS, PAGE, console, rows, tree
from tests.docs.pages import code
from tests.hubs import Repository, started_hub
from tests.limits import limit_s
from tests.servers import serve

INFOS = Plugins.discover({}).backends
FILE_SUFFIXES = (".json", ".pbtxt", ".py", ".zip", ".txt", ".model")


def run(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command of the page, in a real process, with the variables of this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "HOME": str(folder), **environ}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=variables, text=True, timeout=limit_s(60), check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def on_this_machine(lines: list[str]) -> list[str]:
    """Lines without the memory that happens to be free."""
    return [re.sub(r"of [\d.]+ GB: ", "of this machine: ", line) for line in lines]


def upload(bucket: Bucket, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


# ---------------------------------------------------------------------------------------------------- real processes


def test_a_model_goes_from_the_hub_to_s3_and_is_checked_and_served_there(bucket: Bucket, tmp_path: Path) -> None:
    source = write_tiny("llama", tmp_path / "source")
    content = {path.name: path.read_bytes() for path in source.iterdir()} | {"README.md": b"read me"}
    *commands, (serving, _) = console("In four commands")
    environ = {"HF_HOME": str(tmp_path / "hub"), "LMI_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    with started_hub({"ORG/NAME": Repository(content)}) as hub:
        for command, shown in commands:
            done = run(command, tmp_path, HF_ENDPOINT=hub.url, OMP_NUM_THREADS="1", **environ)
            assert done.returncode == 0, done.stdout
            if shown:
                assert on_this_machine(done.stdout.splitlines()) == on_this_machine(shown)
    assert not (tmp_path / "cache").exists()  # a check fetches nothing
    with serve(*serving.removeprefix("lmi serve ").split(), environ=environ) as server:
        assert server.generate("Hello", max_new_tokens=3)["generated_text"]
    [place] = (tmp_path / "cache" / "models").iterdir()
    assert (place / "place.txt").read_text().strip() == "s3://bucket/model"
    [marker] = place.glob("*/.lmi-complete.json")
    fetched = {path.name for path in marker.parent.iterdir()} - {marker.name}
    assert fetched == set(content) - {"README.md"}


def test_three_mistakes_are_told_as_the_page_shows(bucket: Bucket, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "broken", n_shards=2)
    there = tree("Three mistakes")
    (folder / "serving.properties").write_text(there["serving.properties"])
    absent = {path.name for path in folder.iterdir()} - set(there)
    assert absent == {"model-00002-of-00002.safetensors", "tokenizer_config.json"}
    for name in absent:
        (folder / name).unlink()
    (upload_it, _), (check_it, shown) = console("Three mistakes")
    assert run(upload_it, tmp_path).returncode == 0
    done = run(check_it, tmp_path)
    assert (done.stdout.splitlines(), done.returncode) == (shown, 1)


def test_a_compiled_model_is_checked_for_a_container_that_is_not_here(bucket: Bucket, tmp_path: Path) -> None:
    upload(bucket, layout("neuron_old", tmp_path / "compiled"), "compiled")
    [(command, shown)] = console("Checks for a container that is not here")
    assert run(command, tmp_path).stdout.splitlines() == shown
    flag = re.search(r" --target \S+", command)
    assert flag is not None
    [versions] = re.findall(r'`(\{"neuronx-cc".*\})`', PAGE)
    (tmp_path / "versions.json").write_text(versions)
    done = run(command.replace(flag[0], ""), tmp_path, LMI_VERSIONS_FILE="versions.json")
    assert done.stdout.splitlines() == shown


# ------------------------------------------------------------------------------------------------------------ places


def test_every_place_of_the_table_is_one(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    folder = write_model(tmp_path / "llama")
    with tarfile.open("model.tar.gz", "w:gz") as tar:
        tar.add(folder, "model")
    with zipfile.ZipFile("model.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    table = {row[0]: code(row[1]) for row in rows("Where a model may be")}
    here = [each.replace("/models", str(tmp_path)) for each in table["a folder"]] + table["an archive here"]
    upload(bucket, folder, "model")
    assert len(here) == 4
    for form in [*here, *table["a prefix in S3"]]:
        assert "config.json" in place_of(form, None, None).sizes, form
    bucket.put("model.tar.gz", Path("model.tar.gz").read_bytes())
    assert "config.json" in place_of(table["an archive elsewhere"][0], None, None).sizes
    assert all(map(is_object_url, table["Google's and Azure's stores"]))
    [told] = [row[2] for row in rows("Where a model may be") if row[0] == "an archive here"]
    assert set(SUFFIXES) == set(code(told))


def test_variables_of_the_cache_win_in_the_order_of_the_page() -> None:
    named = [each for each in code(rows("The cache")[0][1]) if each.isupper()]
    assert len(named) == 3
    for i, name in enumerate(named):
        environ = {each: f"/{each}" for each in named[i:]}
        assert cache_root(environ) == Path(f"/{name}")


# ------------------------------------------------------------------------------------------------ what else is said


def test_every_code_of_the_page_is_in_the_list_of_errors() -> None:
    groups = "|".join(set(re.findall(r"^\| `(\w+)\.", ERRORS, re.MULTILINE)))
    named = {each for each in re.findall(rf"`((?:{groups})\.[a-z-]+)`", PAGE) if not each.endswith(FILE_SUFFIXES)}
    assert len(named) > 25
    assert {each for each in named if f"| `{each}` |" not in ERRORS} == set()


def test_the_compilers_that_may_be_told_are_those_of_the_page() -> None:
    said = re.search(r"`--target` takes (.*?),\s+several", PAGE, re.DOTALL)
    assert said is not None
    assert set(code(said[1])) == {each for info in INFOS.values() for each in info.compilers}


def test_the_limits_of_archives_are_those_of_the_page() -> None:
    limits = Limits()
    assert (f"{limits.ratio} times" in PAGE, f"{limits.n_entries:,} files" in PAGE) == (True, True)
    assert limits.any_bytes == 1 << 30


def test_the_controls_of_secure_mode_are_those_of_the_page() -> None:
    known = {value for value in vars(secure_mode).values() if isinstance(value, str) and value.startswith("DISALLOW")}
    assert set(re.findall(r"`(DISALLOW_\w+)`", PAGE)) == known
