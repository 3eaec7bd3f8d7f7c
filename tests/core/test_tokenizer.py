# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer as RustTokenizer, processors

from lmi.api import ArtifactError, ArtifactFormat, ModelArtifacts, RequestError
from lmi.serving.token_decoder import TokenDecoder, WindowDecoder, spelling_of
from lmi.serving.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer, load_tokenizer
from tests.core.tokenizer_folders import KINDS, TEXTS, byte_level, write, write_vocabulary_only
from tests.limits import limit_s

BYTE_KINDS = ["byte-level", "tiktoken-like", "sentencepiece-bpe", "metaspace-first", "gemma-like"]

SETTINGS = settings(deadline=None, derandomize=True, database=None)

GOLDEN_PROGRAM = """
import json, sys
from transformers import AutoTokenizer
folders, texts = json.load(sys.stdin)
answers = {}
for name, folder in folders.items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    texts_of = lambda skips: [tokenizer.decode(each, skip_special_tokens=skips) for each in ids]
    answers[name] = [ids, texts_of(True), texts_of(False)]
print(json.dumps(answers))
"""


def artifacts(folder: Path) -> ModelArtifacts:
    return ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)


@cache
def rust(kind: str) -> RustTokenizer:
    return KINDS[kind]()


@cache
def new_decoder(kind: str) -> Callable[[], TokenDecoder]:
    return spelling_of(rust(kind)).decoder


def decoded(kind: str, ids: list[int]) -> tuple[list[str], str]:
    decoder = new_decoder(kind)()
    return [piece for token_id in ids for piece in decoder.push([token_id])], decoder.flush()


def settings_variants() -> dict[str, dict[str, Any]]:
    return {
        "plain": {},
        "bos-and-eos-asked": {"add_bos_token": True, "add_eos_token": True},
        "pad-token-only-in-settings": {"pad_token": "<pad>", "additional_special_tokens": ["<tool>"]},
        "named-token-becomes-special": {"pad_token": "<think>"},
        "flags-in-settings": {
            "added_tokens_decoder": {
                "900": {"content": "<late>", "lstrip": True, "rstrip": False, "normalized": False, "special": True},
                "901": {"content": "plainword", "lstrip": False, "normalized": True, "special": False},
            },
            "unk_token": {"__type": "AddedToken", "content": "<unk>", "lstrip": False, "normalized": False},
        },
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    made = {kind: write(root / kind, build()) for kind, build in KINDS.items()}
    for name, config in settings_variants().items():
        made[f"settings-{name}"] = write(root / name, byte_level(), **config)
    trained = byte_level()
    trained.enable_truncation(4)
    trained.enable_padding(length=16)
    trained.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    made["cut-in-training"] = write(root / "cut-in-training", trained)
    return made


GOLDEN_TEXTS = [*TEXTS, "a <late> b plainwordy <tool><pad>", "one two three four five six seven eight"]


@pytest.fixture(scope="module")
def golden(folders: dict[str, Path]) -> dict[str, Any]:
    """What transformers' AutoTokenizer makes of the same folders, in a process of its own."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    question = json.dumps([{name: str(folder) for name, folder in folders.items()}, GOLDEN_TEXTS])
    command = [sys.executable, "-c", GOLDEN_PROGRAM]
    run = subprocess.run(command, input=question, capture_output=True, text=True, timeout=limit_s(120), check=True)
    return dict(json.loads(run.stdout))


GOLDEN_NAMES = [*KINDS, *(f"settings-{name}" for name in settings_variants()), "cut-in-training"]


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_ids_and_text_are_those_of_transformers(name: str, folders: dict[str, Path], golden: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(artifacts(folders[name]))
    ids, texts, with_special = golden[name]
    assert [tokenizer.encode(text) for text in GOLDEN_TEXTS] == ids
    assert [tokenizer.decode(each) for each in ids] == texts
    for each, text in zip(ids, with_special, strict=True):
        decoder = tokenizer.decoder(shows_special=True)
        assert "".join(decoder.push(each)) + decoder.flush() == text


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(SETTINGS, max_examples=60)
def test_pieces_and_rest_are_the_text_of_the_real_decoder(kind: str, data: st.DataObject) -> None:
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(TEXTS))
    ids = list(rust(kind).encode(text).ids)
    for position in data.draw(st.lists(st.integers(0, len(ids)), max_size=3)):
        ids.insert(position, data.draw(st.sampled_from([1, 2])))  # special tokens in the middle
    pieces, rest = decoded(kind, ids)
    assert "".join(pieces) + rest == rust(kind).decode(ids, skip_special_tokens=True)


@given(ids=st.lists(st.integers(0, 520), max_size=40))
@settings(SETTINGS, max_examples=200)
def test_any_byte_level_ids_decode_like_the_real_decoder_even_when_bytes_are_broken(ids: list[int]) -> None:
    pieces, rest = decoded("byte-level", ids)
    assert "".join(pieces) + rest == rust("byte-level").decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(SETTINGS, max_examples=40)
def test_chunking_changes_no_piece(kind: str, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, rust(kind).get_vocab_size() + 3), max_size=24))
    pieces, rest = decoded(kind, ids)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    decoder = new_decoder(kind)()
    chunked = [
        piece
        for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)
        for piece in decoder.push(ids[begin:end])
    ]
    assert (chunked, decoder.flush()) == (pieces, rest)


@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_a_character_of_several_tokens_arrives_whole_with_its_last_token(kind: str) -> None:
    ids = rust(kind).encode("a👩‍👩‍👧b").ids
    pieces, rest = decoded(kind, list(ids))
    assert "".join(pieces).lstrip(" ") == "a👩‍👩‍👧b"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces
    assert rest == ""


@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_an_output_that_ends_inside_a_character_leaves_one_replacement_mark(kind: str) -> None:
    ids = list(rust(kind).encode("a🙂").ids)[:-1]
    pieces, rest = decoded(kind, ids)
    assert "".join(pieces).strip() == "a"
    assert rest == "\ufffd"


def test_broken_bytes_do_not_destroy_whole_characters_beside_them() -> None:
    tokens = ["<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>"]  # tokenizers gives four replacement marks
    pieces, rest = decoded("gemma-like", [rust("gemma-like").token_to_id(token) for token in tokens])
    assert pieces == ["", "", "你", "\ufffd"]
    assert rest == ""


def test_a_window_over_broken_text_is_given_up_after_a_while() -> None:
    lengths: list[int] = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return "\ufffd" * len(ids)

    decoder = WindowDecoder(decode, frozenset())
    text = "".join(decoder.push([7] * 200)) + decoder.flush()
    assert text == "\ufffd" * 200
    assert max(lengths) <= 32


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@SETTINGS
def test_bytes_are_ids_and_come_back_as_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(data=st.binary(max_size=20))
@SETTINGS
def test_bytes_that_are_no_text_become_replacement_marks(data: bytes) -> None:
    assert ByteTokenizer().decode(data) == data.decode(errors="replace")


def test_a_model_without_files_gets_bytes() -> None:
    assert isinstance(load_tokenizer(ModelArtifacts()), ByteTokenizer)


def test_vocab_size_covers_tokens_that_only_the_settings_name(folders: dict[str, Path]) -> None:
    plain = load_tokenizer(artifacts(folders["settings-plain"]))
    more = load_tokenizer(artifacts(folders["settings-pad-token-only-in-settings"]))
    assert plain.vocab_size == rust("byte-level").get_vocab_size() + 1  # <think>
    assert more.vocab_size == plain.vocab_size + 2  # <pad> and <tool>


def test_the_end_of_text_id_is_known(folders: dict[str, Path]) -> None:
    assert load_tokenizer(artifacts(folders["byte-level"])).eos_ids == (2,)


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_half_a_surrogate_pair_is_refused_with_its_place(kind: str, folders: dict[str, Path]) -> None:
    tokenizer: Tokenizer = ByteTokenizer() if kind == "bytes" else load_tokenizer(artifacts(folders["byte-level"]))
    with pytest.raises(RequestError, match=r"request.not-unicode: .*\(U\+D83D\) at character 2") as refused:
        tokenizer.encode("ab\ud83d")
    assert refused.value.hint


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer.unreadable: .*tokenizer.json cannot be read"):
        load_tokenizer(artifacts(tmp_path))


def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", byte_level(), added_tokens_decoder={"5": "text"})
    with pytest.raises(ArtifactError, match=r"tokenizer.unreadable: .*tokenizer_config.json describes its special"):
        load_tokenizer(artifacts(folder))


def test_a_folder_without_tokenizer_says_which_files_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer.missing: .*no tokenizer.json, tokenizer.model"):
        load_tokenizer(artifacts(tmp_path))


def test_a_tokenizer_without_tokenizer_json_is_converted_once(tmp_path: Path) -> None:
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    folder = write_vocabulary_only(tmp_path / "model")
    converted = load_tokenizer(artifacts(folder), cache=tmp_path / "cache")
    text = "The capital of France is Paris. 🙂"
    assert converted.encode(text) == byte_level().encode(text).ids
    # The second time no Python is started: this one could not be.
    again = load_tokenizer(artifacts(folder), cache=tmp_path / "cache", python_executable="/no/such/python")
    assert again.encode(text) == converted.encode(text)


def test_a_changed_vocabulary_is_converted_again(tmp_path: Path) -> None:
    folder = write_vocabulary_only(tmp_path / "model")
    program = fake_python(tmp_path, f"cp {tmp_path}/made.json $4; echo run >> {tmp_path}/runs")
    byte_level().save(str(tmp_path / "made.json"))
    for content in ("a b", "a b", "c d"):
        (folder / "merges.txt").write_text(content)
        load_tokenizer(artifacts(folder), cache=tmp_path / "cache", python_executable=program)
    assert (tmp_path / "runs").read_text().splitlines() == ["run"] * 2


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_vocabulary_only(tmp_path / "model")
    byte_level().save(str(tmp_path / "made.json"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    program = fake_python(tmp_path, f"cp {tmp_path}/made.json $4")
    assert isinstance(
        load_tokenizer(artifacts(folder), cache=tmp_path / "cache", python_executable=program), FileTokenizer
    )
    assert "cannot be kept in" in caplog.text


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo noise >&2; echo 'ImportError: No module named sentencepiece' >&2; exit 1", "No module named sentencepi"),
        ("exit 3", "ended with code 3"),
        ("exit 0", "wrote no tokenizer.json"),
    ],
)
def test_a_failed_conversion_tells_why(tmp_path: Path, script: str, reason: str) -> None:
    folder = write_vocabulary_only(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"tokenizer.not-convertible") as failed:
        load_tokenizer(artifacts(folder), cache=tmp_path / "cache", python_executable=fake_python(tmp_path, script))
    assert reason in str(failed.value)
    assert "lmi-core[convert]" in failed.value.hint


def test_the_converter_ends_with_the_reason_and_the_readers_that_are_not_installed(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ValueError('no such\\nvocabulary')")
    for module in ("sentencepiece", "tiktoken"):
        (tmp_path / f"{module}.py").write_text("")
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").write_text("")  # without protobuf in it
    command = [sys.executable, "-m", "lmi.serving.convert_tokenizer", str(tmp_path), str(tmp_path / "out.json")]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit_s(60), check=False)
    assert run.returncode == 1
    expected = f"ValueError: no such vocabulary (not installed for {sys.executable}: protobuf)"
    assert run.stderr.splitlines()[-1] == expected


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write_vocabulary_only(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"/no/such/python cannot be started: No such file"):
        load_tokenizer(artifacts(folder), cache=tmp_path / "cache", python_executable="/no/such/python")


def test_text_brings_no_torch_and_no_transformers_into_the_process(folders: dict[str, Path]) -> None:
    program = (
        "import sys; from lmi.api import *; from lmi.serving.tokenizer import load_tokenizer\n"
        f"load_tokenizer(ModelArtifacts(folder={str(folders['byte-level'])!r}, format=ArtifactFormat.PRETRAINED))\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=limit_s(60), check=True
    )
    assert run.stdout == "[]\n"


def fake_python(folder: Path, script: str) -> str:
    """A program that stands where a Python is expected, with the arguments -m MODULE FOLDER FILE."""
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
