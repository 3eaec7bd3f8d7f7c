# SPDX-License-Identifier: Apache-2.0
"""JSON files of a model that are large, or many: which are read, and what is said of the others."""

from __future__ import annotations

from lmi.artifacts import check, detect
from tests.core.layouts import write
from tests.core.model_folders import write_model


def told(folder):
    return [(problem.code, problem.message) for problem in check(folder)]


def settings_of(n_tokens):
    """A tokenizer_config.json as Gemma 3 has it: a table with an entry for each of its many special tokens."""
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"added_tokens_decoder": {str(i): {"content": f"<unused{i}>", **entry} for i in range(n_tokens)}}


def test_the_settings_of_a_tokenizer_with_thousands_of_special_tokens_are_read(tmp_path):
    folder = write(write_model(tmp_path / "m"), {"tokenizer_config.json": settings_of(9000)})
    assert (folder / "tokenizer_config.json").stat().st_size > 1 << 20
    assert told(folder) == []
    assert len(detect(folder).documents["tokenizer_config.json"]["added_tokens_decoder"]) == 9000


def test_settings_of_a_tokenizer_that_are_too_large_are_told_by_name_and_size(tmp_path):
    folder = write(write_model(tmp_path / "m"), {"tokenizer_config.json": settings_of(80_000)})
    n_bytes = (folder / "tokenizer_config.json").stat().st_size
    message = f"tokenizer_config.json has {n_bytes} bytes; up to 8388608 are read"
    assert told(folder) == [("tokenizer.unreadable", message)]


def test_other_files_do_not_crowd_out_a_models_own_unless_they_are_small_and_many(tmp_path):
    folder = write_model(tmp_path / "m")
    large = {f"a_result_{i}.json": {"text": "x" * 1_000_000} for i in range(20)}
    assert told(write(folder, large)) == []
    write(folder, {f"a_note_{i}.json": "{}" for i in range(140)})
    assert ("config.unreadable", "config.json was not read: beside it there are too many JSON files") in told(folder)
