# SPDX-License-Identifier: Apache-2.0
"""The small files of a model that say what it is: configuration as JSON, and a few short texts."""

from __future__ import annotations

import json
from typing import Any

from lmi.api.errors import LmiError
from lmi.artifacts.places.files import ModelFiles

_MAX_DOCUMENT_BYTES = 1 << 20
"""Largest file that is taken for a document; a configuration has some KiB."""

_MAX_SETTINGS_BYTES = 8 << 20
"""The same of a tokenizer's settings, which have an entry for each special token: Gemma 3's have 1.2 MB."""

LFS_MARK = b"version https://git-lfs.github.com/spec/"
INDEX_SUFFIX = ".index.json"
AGAIN = "Get the file again"
"""What to do about a file that is broken."""

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_TOTAL_BYTES = 16 << 20
_MAX_N = 128
_MAX_NESTING = 100
_MAX_FOLDERS = 2
"""Folders a document may lie below: ``NAME/1/config.json``, ``adapters/NAME/adapter_config.json``."""

_TEXTS = ("config.pbtxt", "VERSION")
_NOT_DOCUMENTS = (
    "tokenizer.json", "vocab.json", "tekken.json", "merges.json", "trainer_state.json", "key_to_filename.json",
)  # fmt: skip
_LEFT_OUT_FOLDERS = ("checkpoint-", "runs", "onnx", "original", "global_step", "logs", "wandb")


class NotReadable(ValueError):
    """A document's content cannot be used; the text says why, as the end of a sentence.

    Args:
        reason: that text.
        hint: what to do; "" where only the file itself can be at fault.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def why(error: BaseException) -> tuple[str, str]:
    """Why something could not be read, and what to do: "" where the error does not know.

    Args:
        error: of reading; one of a store, a hub or a web server carries what it tells people as ``error``.
    """
    told = getattr(error, "error", None)
    if isinstance(told, LmiError):
        return told.message, told.hint
    return str(getattr(error, "strerror", None) or error or type(error).__name__), ""


def pull_hint(files: ModelFiles) -> str:
    """What to do about a pointer of git-lfs."""
    return "Run: git lfs pull" if files.is_here else "Run git lfs pull in the clone and upload the file again"


def is_document(name: str, n_bytes: int) -> bool:
    """Whether a file is read as a whole, because of its name and its size."""
    *folders, last = name.split("/")
    if n_bytes > _most_bytes(name) or len(folders) > _MAX_FOLDERS:
        return False
    if any(folder.startswith(_LEFT_OUT_FOLDERS) for folder in folders):
        return False
    is_json = last.endswith(".json") and not last.endswith(INDEX_SUFFIX) and last not in _NOT_DOCUMENTS
    return is_json or last in _TEXTS


def _most_bytes(name: str) -> int:
    return _MAX_SETTINGS_BYTES if name.rpartition("/")[2] in _SETTINGS else _MAX_DOCUMENT_BYTES


def read_documents(files: ModelFiles) -> dict[str, Any]:
    """Every document of a place, name -> content; those that cannot be read are left out. All are read at once.

    Where there are too many, those in the fewest folders and the smallest of them come first.
    """
    names: list[str] = []
    n_bytes = 0
    for name in sorted(files.sizes, key=lambda name: (name.count("/"), files.sizes[name], name)):
        size = files.sizes[name]
        if is_document(name, size) and len(names) < _MAX_N and n_bytes + size <= _MAX_TOTAL_BYTES:
            names.append(name)
            n_bytes += size
    found = files.read_all([(name, 0, _most_bytes(name)) for name in names])
    documents = {}
    for name, data in zip(names, found, strict=True):
        if isinstance(data, OSError):
            continue
        try:
            documents[name] = text_of(data) if name.rpartition("/")[2] in _TEXTS else parsed(data)
        except NotReadable:
            continue
    return documents


def why_unread(files: ModelFiles, name: str) -> tuple[str, str]:
    """Why a JSON file is not among the documents, or is no object there; and what to do.

    Args:
        files: where it is; it is read once more.
        name: of the file.
    """
    n_bytes, most_bytes = files.sizes[name], _most_bytes(name)
    if n_bytes > most_bytes:
        return f"{name} has {n_bytes} bytes; up to {most_bytes} are read", "Is it this model's file?"
    (data,) = files.read_all([(name, 0, most_bytes)])
    if isinstance(data, OSError):
        reason, hint = why(data)
        return f"{name} cannot be read: {reason}", hint or "Check its owner"
    try:
        content = parsed(data)
    except NotReadable as error:
        return f"{name} is not a JSON object: it {error}", AGAIN
    if isinstance(content, dict):
        return f"{name} was not read: beside it there are too many JSON files", "Remove those that are not the model's"
    return f"{name} is not a JSON object", AGAIN


def parsed(data: bytes) -> Any:
    """The content of a JSON file, in values that every part of LMI can carry: integers beyond 64 bits become floats.

    Raises:
        NotReadable: it is no JSON, or JSON made to break its readers.
    """
    try:
        content = json.loads(text_of(data))
    except RecursionError:
        raise NotReadable("is nested too deep") from None
    except NotReadable:
        raise
    except ValueError as error:
        raise NotReadable(f"is no JSON: {error}") from None
    return _carried(content, 0)


def text_of(data: bytes) -> str:
    """The text of a file.

    Raises:
        NotReadable: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotReadable(f"is not UTF-8: byte {data[error.start]:#04x} at {error.start}") from None


def _carried(value: Any, depth: int) -> Any:
    if depth > _MAX_NESTING:
        raise NotReadable(f"is nested deeper than {_MAX_NESTING}")
    if isinstance(value, dict):
        return {_carried(key, depth): _carried(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_carried(each, depth + 1) for each in value]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotReadable("has half a surrogate pair in a text") from None
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value) if value.bit_length() < 1024 else float("inf")
    return value
