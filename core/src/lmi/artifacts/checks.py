# SPDX-License-Identifier: Apache-2.0
"""Everything that is wrong with a model's files, found by names, sizes and headers."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lmi.api import ArtifactFormat, ModelArtifacts, Problem
from lmi.artifacts.formats import detect, index_in_use, indexed_shards, read_json

LFS_MARK = b"version https://git-lfs.github.com/spec/"
MAX_HEADER_BYTES = 100_000_000
"""Largest header a safetensors file may have. Source: the safetensors format."""

_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
    "tekken.json",
)  # fmt: skip
_BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer")
"""Tokenizers that need no vocabulary file."""


def check(model: Path | ModelArtifacts) -> list[Problem]:
    """List everything that would stop these files from being loaded; an empty list means none was found.

    Args:
        model: a model folder, or what ``detect`` said of it.
    """
    artifacts = detect(model) if isinstance(model, Path) else model
    if artifacts.format is ArtifactFormat.NONE:
        return []
    folder = artifacts.path
    problems = [*_check_config(artifacts), *_check_presence(artifacts)]
    problems += [problem for name in artifacts.weight_files for problem in _check_weights(folder / name)]
    if artifacts.format is ArtifactFormat.PRETRAINED:
        problems += _check_tokenizer(folder)
    return problems


def _check_config(artifacts: ModelArtifacts) -> Iterator[Problem]:
    is_adapter = artifacts.format is ArtifactFormat.ADAPTER
    name = "adapter_config.json" if is_adapter else "config.json"
    path = artifacts.path / name
    if not path.is_file():
        yield _problem("config.missing", f"no {name}", "It comes with the model; copy it beside the weights", path)
        return
    content = read_json(path)
    if content is None:
        yield _problem("config.unreadable", f"{name} is not a JSON object", "Get the file again", path)
    elif is_adapter and not content.get("base_model_name_or_path"):
        yield _problem(
            "adapter.no-base", f"{name} names no base_model_name_or_path", "Say which model the adapter is for", path
        )
    elif not is_adapter and not (artifacts.model_type or artifacts.architectures):
        yield _problem(
            "config.incomplete", f"{name} has neither model_type nor architectures", "Is it this model's file?", path
        )


def _check_presence(artifacts: ModelArtifacts) -> Iterator[Problem]:
    folder = artifacts.path
    index = index_in_use(folder) if artifacts.format is ArtifactFormat.PRETRAINED else ""
    shards = indexed_shards(folder, index) if index else ()
    for name in shards:
        if not (folder / name).is_file():
            yield _problem(
                "weights.shard-missing", f"{name} is in the index but not in the folder", "Copy it again", folder / name
            )
    if index and not shards:
        yield _problem("weights.unreadable", f"{index} has no weight_map", "Get the file again", folder / index)
    if artifacts.weight_files or shards:
        return
    others = sorted(path.name for pattern in ("*.gguf", "*.h5", "*.onnx", "*.pth") for path in folder.glob(pattern))
    there = f"; {', '.join(others)} cannot be served" if others else ""
    wanted = "adapter_model" if artifacts.format is ArtifactFormat.ADAPTER else "model"
    yield _problem(
        "weights.missing", f"no {wanted} weights, neither .safetensors nor .bin{there}", "Copy the weights here", folder
    )


def _check_weights(path: Path) -> Iterator[Problem]:
    """Judge one file by its first bytes and its size."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_MARK)) == LFS_MARK
            file.seek(0)
            if is_pointer:
                yield _pointer("weights.lfs-pointer", path)
            elif path.suffix == ".safetensors":
                yield from _check_safetensors(path, file)
            else:
                yield from _check_pytorch(path, file)
    except OSError as error:
        yield _problem("weights.unreadable", f"{path.name} cannot be read: {error.strerror}", "Check its owner", path)


def _check_safetensors(path: Path, file: BinaryIO) -> Iterator[Problem]:
    """Compare the size that the header promises with the file's.

    Source: the safetensors format: 8 bytes of header length, little-endian; the header in JSON; the data.
    """
    n_bytes = path.stat().st_size
    n_header_bytes = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or (n_header_bytes <= MAX_HEADER_BYTES and n_bytes < 8 + n_header_bytes):
        yield _truncated(path, n_bytes, 8 + n_header_bytes)
        return
    try:
        if n_header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {n_header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed")
        header = json.loads(file.read(n_header_bytes))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        yield _problem(
            "weights.unreadable", f"{path.name} has no safetensors header: {error}", "Get the file again", path
        )
        return
    expected_bytes = 8 + n_header_bytes + max(ends, default=0)
    if n_bytes < expected_bytes:
        yield _truncated(path, n_bytes, expected_bytes)
    elif n_bytes > expected_bytes:
        message = f"{path.name} has {n_bytes} bytes, its header describes {expected_bytes}"
        yield _problem("weights.unreadable", message, "Get the file again", path)


def _check_pytorch(path: Path, file: BinaryIO) -> Iterator[Problem]:
    """A PyTorch file is a zip archive, whose directory comes last; older ones are pickles, which tell nothing."""
    n_bytes = path.stat().st_size
    if n_bytes == 0 or (file.read(2) == b"PK" and not zipfile.is_zipfile(file)):
        message = f"{path.name} stops before its end, at {n_bytes} bytes"
        yield _problem("weights.truncated", message, "Copy it again", path)


def _truncated(path: Path, n_bytes: int, expected_bytes: int) -> Problem:
    message = f"{path.name} has {n_bytes} bytes of {expected_bytes}"
    return _problem("weights.truncated", message, "Copy it again", path)


def _check_tokenizer(folder: Path) -> Iterator[Problem]:
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    if not path.is_file():
        yield _problem("tokenizer.missing", "no tokenizer_config.json", "Copy it from where the model came from", path)
    elif config is None:
        yield _problem("tokenizer.unreadable", "tokenizer_config.json is not a JSON object", "Get the file again", path)
    found = [folder / name for name in _VOCABULARIES if (folder / name).is_file()]
    found += sorted(folder.glob("*.tiktoken"))
    # A tokenizer with code of its own may keep its vocabulary under any name.
    is_own = config is not None and ("auto_map" in config or config.get("tokenizer_class") in _BYTE_TOKENIZERS)
    if not found and not is_own:
        yield _problem(
            "tokenizer.missing",
            "no vocabulary (tokenizer.json, tokenizer.model, vocab.json or vocab.txt)",
            "Copy the tokenizer's files from where the model came from",
            folder,
        )
    for each in found:
        with each.open("rb") as file:
            if file.read(len(LFS_MARK)) == LFS_MARK:
                yield _pointer("tokenizer.lfs-pointer", each)


def _pointer(code: str, path: Path) -> Problem:
    return _problem(code, f"{path.name} is a git-lfs pointer, not the file", "Run: git lfs pull", path)


def _problem(code: str, message: str, hint: str, path: Path) -> Problem:
    return Problem(code=code, message=message, hint=hint, path=str(path))
