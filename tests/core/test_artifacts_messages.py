# SPDX-License-Identifier: Apache-2.0
"""Folders that people really name: the one problem that is told says what is there and what to do."""

import pytest

from lmi.api import ArtifactError, Severity
from lmi.artifacts import check, detect, wanted_files
from lmi.artifacts.places.store_errors import StoreError
from tests.core.layouts import Elsewhere, pickled, write
from tests.core.model_folders import CONFIG, write_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WHOLE = "model.safetensors"


def told(folder):
    files = Elsewhere(folder)
    there = check(detect(files), files)
    here = check(folder)
    place = str(folder.resolve())
    assert [(each.code, each.message.replace(place, files.place)) for each in here] == [
        (each.code, each.message) for each in there
    ]
    assert all(each.hint for each in here)
    return [(each.code, each.message) for each in here]


def moved(tmp_path, folder, *others):
    """A model whose weights are in a folder of it."""
    model = write_model(tmp_path / "m")
    write(model, {f"{folder}/{WHOLE}": (model / WHOLE).read_bytes(), **dict.fromkeys(others, b"x")})
    (model / WHOLE).unlink()
    return model


@pytest.mark.parametrize("others", [(), ("optimizer.pt", "rng_state.pth", "training_args.bin"), ("onnx/model.onnx",)])
def test_weights_in_a_folder_of_the_model_are_found(others, tmp_path):
    folder = moved(tmp_path, "checkpoint-500", *others)
    assert told(folder) == [("weights.missing", "no weights here; checkpoint-500/ has some")]
    assert f"{folder}/checkpoint-500" in check(folder)[0].hint


def test_weights_of_adapters_and_copies_are_not_taken_for_those_of_the_model(tmp_path):
    folder = moved(tmp_path, "adapters/fr", "original/consolidated.safetensors")
    assert told(folder) == [("weights.missing", "no model weights, neither .safetensors nor .bin")]


def test_a_model_with_nothing_but_a_conversion_in_a_folder_is_told_what_that_is(tmp_path):
    folder = write(write_model(tmp_path / "m"), {"onnx/model.onnx": b"x"})
    assert told(folder) == []
    (folder / WHOLE).unlink()
    ((code, message),) = told(folder)
    assert (code, "onnx/model.onnx cannot be served: ONNX" in message) == ("weights.unsupported-kind", True)


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (1, "there is a model in m0/"),
        (2, "there are models in m0/, m1/"),
        (7, "there are models in m0/, m1/, m2/, m3/, m4/ and 2 more"),
    ],
)
def test_a_folder_of_models_is_one_problem_that_names_them(n, said, tmp_path):
    for i in range(n):
        write_model(tmp_path / f"m{i}")
    assert told(tmp_path) == [("config.missing", f"no config.json here; {said}")]
    assert f"{tmp_path}/m0" in check(tmp_path)[0].hint


def test_an_empty_folder_is_called_empty(tmp_path):
    write(tmp_path, {".gitignore": "x"})
    assert told(tmp_path) == [("weights.missing", f"{tmp_path} is empty")]


def test_weights_of_the_other_layout_are_named(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / WHOLE).rename(folder / "consolidated.safetensors")
    ((code, message),) = told(folder)
    assert (code, message.startswith("consolidated.safetensors: weights of Mistral's own layout")) == (
        "weights.missing", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"<html><body>401</body></html>", "weights.unreadable", "begins with '<html': a web page, not weights"),
        (
            b"\n<!DOCTYPE html>" + b" " * 99,
            "weights.unreadable",
            "begins with '<!DOCTYPE html': a web page, not weights",
        ),
        (b"", "weights.truncated", "is empty"),
    ],
)
def test_what_is_no_weights_at_all_is_told_as_what_it_is(content, code, message, tmp_path):
    folder = write(write_model(tmp_path / "m"), {WHOLE: content})
    assert told(folder) == [(code, f"{WHOLE} {message}")]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_in_a_store_is_to_be_uploaded_again(name, tmp_path):
    folder = write(write_model(tmp_path / "m"), {name: POINTER})
    files = Elsewhere(folder)
    (there,) = check(detect(files), files)
    assert there.hint == "Run git lfs pull in the clone and upload the file again"
    assert [each.hint for each in check(folder)] == ["Run: git lfs pull"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_store_that_fails_while_weights_are_read_says_so_itself(name, tmp_path):
    folder = write(tmp_path / "m", {"config.json": CONFIG, name: pickled()})

    class Failing(Elsewhere):
        def read(self, file, start=0, n_bytes=None):
            if file == name:
                raise StoreError(ArtifactError("model.unreachable", "the bucket does not answer", (), "Try later"))
            return super().read(file, start, n_bytes)

    files = Failing(folder)
    found = [each for each in check(detect(files), files) if each.code == "weights.unreadable"]
    assert [(each.message, each.hint) for each in found] == [
        (f"{name} cannot be read: the bucket does not answer", "Try later")
    ]


def test_one_numbered_file_needs_an_index_too(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / WHOLE).rename(folder / "model-00001-of-00001.safetensors")
    (problem,) = check(folder)
    assert (problem.code, problem.severity) == ("weights.index-missing", Severity.WARNING)
    assert problem.message == "no model.safetensors.index.json beside the 1 numbered file"


def test_the_names_of_many_files_are_gone_through_once(tmp_path):
    """As many steps as names, not as many as pairs of them."""

    class Counting(dict):
        n_passes = 0

        def __iter__(self):
            Counting.n_passes += 1
            return super().__iter__()

    artifacts = detect(write(write_model(tmp_path / "m"), {"pytorch_model.bin": pickled()}))
    names = {f"data/{i}.json": 1 for i in range(50)}
    artifacts = type(artifacts)(
        format=artifacts.format, weight_files=artifacts.weight_files, files=Counting({**artifacts.files, **names})
    )
    assert set(names) <= set(wanted_files(artifacts))
    assert 0 < Counting.n_passes <= 4
