# SPDX-License-Identifier: Apache-2.0
"""Whether a model's tokenizer is there, loads, and fits the model; without the library that trained the model."""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import Problem, Severity
from lmi.artifacts.documents import AGAIN, LFS_MARK, NotReadable, parsed, pull_hint, text_of, why, why_unread
from lmi.artifacts.formats import within
from lmi.artifacts.headers import headers_of
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.weights import SAFETENSORS

_SETTINGS = "tokenizer_config.json"
_FAST = "tokenizer.json"
_SENTENCE_PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_OTHERS = ("vocab.json", "vocab.txt", "tekken.json")
VOCABULARIES = (_FAST, *_SENTENCE_PIECES, *_OTHERS)
"""Names of files that hold a vocabulary, the one that is loaded first at the beginning."""

_BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer")
"""Tokenizers that need no vocabulary file."""

_EMBEDDING = re.compile(r"\b(embed_tokens|embed_in|word_embeddings|wte|tok_embeddings|shared)\.weight$")

_MAX_HERE_BYTES, _MAX_ELSEWHERE_BYTES = 128 << 20, 4 << 20
_MAX_POINTER_BYTES = 1024
_COPY = "Copy the tokenizer's files from where the model came from"
_COPY_FROM_BASE = "Copy the tokenizer's files of the base model beside the adapter"


class _Faulty(ValueError):
    """A file cannot be used; the text says why."""


def tokenizer_problems(artifacts: ModelArtifacts, files: ModelFiles) -> list[Problem]:
    """Everything wrong with the tokenizer of a model.

    Args:
        artifacts: what was detected.
        files: its files. From a place elsewhere a vocabulary is read only if it is small; else a warning says so.
    """
    inner = artifacts.inner
    settings = artifacts.documents.get(within(inner, _SETTINGS))
    problems: list[Problem] = []
    is_adapter = artifacts.format is ArtifactFormat.ADAPTER
    if artifacts.format is not ArtifactFormat.MISTRAL and not (is_adapter and _SETTINGS not in files.sizes):
        problems += _settings_problems(files, within(inner, _SETTINGS), settings)
    found = [within(inner, name) for name in VOCABULARIES if within(inner, name) in files.sizes]
    start = within(inner, "")
    found += sorted(
        n for n in files.sizes if n.endswith(".tiktoken") and n.startswith(start) and "/" not in n[len(start) :]
    )
    if artifacts.format is ArtifactFormat.MISTRAL:
        found += sorted(n for n in files.sizes if "/" not in n and n.startswith("tokenizer.model.v"))
    # A tokenizer with code of its own may keep its vocabulary under any name.
    said = settings if isinstance(settings, dict) else {}
    if not found and "auto_map" not in said and said.get("tokenizer_class") not in _BYTE_TOKENIZERS:
        message = "no vocabulary (tokenizer.json, tokenizer.model, vocab.json or vocab.txt)"
        hint = _COPY_FROM_BASE if is_adapter else _COPY
        problems.append(Problem(code="tokenizer.missing", message=message, hint=hint, path=files.at(inner)))
    pointers = _pointers(files, found)
    problems += [_pointer(files, name) for name in pointers]
    left = [name for name in found if name not in pointers]
    # The others are what older programs read; the first one is loaded here, and by every engine that can.
    return problems + (list(_vocabulary_problems(artifacts, files, left[0])) if left else [])


def _settings_problems(files: ModelFiles, name: str, content: Any) -> Iterator[Problem]:
    if name not in files.sizes:
        hint = "Copy it from where the model came from"
        yield Problem(code="tokenizer.missing", message=f"no {name}", hint=hint, path=files.at(name))
    elif not isinstance(content, dict):
        if _pointers(files, [name]):
            yield _pointer(files, name)
            return
        message, hint = why_unread(files, name)
        yield Problem(code="tokenizer.unreadable", message=message, hint=hint, path=files.at(name))


def _vocabulary_problems(artifacts: ModelArtifacts, files: ModelFiles, name: str) -> Iterator[Problem]:
    path, n_bytes = files.at(name), files.sizes[name]
    limit_bytes = _MAX_HERE_BYTES if files.is_here else _MAX_ELSEWHERE_BYTES
    if n_bytes > limit_bytes:
        message = f"{name} has {n_bytes} bytes; it was not loaded, only files of up to {limit_bytes} are"
        hint = "" if files.is_here else "It is loaded when the model is on this machine"
        yield Problem(
            code="tokenizer.not-checked", message=message, hint=hint or "Is it this model's file?", path=path,
            severity=Severity.WARNING,
        )  # fmt: skip
        return
    try:
        n_ids = _n_ids(artifacts, name, files.read(name))
    except (OSError, _Faulty, NotReadable) as error:
        reason, hint = why(error)
        message = f"{name} cannot be loaded: {' '.join(reason.split())[:300]}"
        yield Problem(code="tokenizer.unreadable", message=message, hint=hint or AGAIN, path=path)
        return
    n_embedded = _vocab_size(artifacts.config)
    if n_embedded and n_ids > n_embedded and n_ids > _n_rows(artifacts, files):
        message = f"{name} has ids up to {n_ids - 1}, the model's vocab_size is {n_embedded}"
        yield Problem(
            code="tokenizer.vocabulary", message=message, path=path, severity=Severity.WARNING,
            hint="Prompts with the ids beyond it fail; is it this model's tokenizer?",
        )  # fmt: skip


def _vocab_size(config: dict[str, Any]) -> int:
    """The rows of the embedding; 0 where the configuration does not say."""
    for layer in (config, config.get("text_config"), config.get("pretrained_config")):
        value = layer.get("vocab_size") if isinstance(layer, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _n_rows(artifacts: ModelArtifacts, files: ModelFiles) -> int:
    """The rows that the embedding has, which some models have more of than their configuration says; 0 if unknown."""
    headers = headers_of(files, [name for name in artifacts.weight_files if name.endswith(SAFETENSORS)])
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    rows = [tensor.shape[0] for name, tensor in tensors.items() if _EMBEDDING.search(name) and len(tensor.shape) == 2]
    return max(rows, default=0)


def _n_ids(artifacts: ModelArtifacts, name: str, data: bytes) -> int:
    """One more than the highest id that a prompt may have."""
    last = name.rpartition("/")[2]
    if last != _FAST:
        return _reader(last)(data)
    template = artifacts.document(within(artifacts.inner, _SETTINGS)).get("chat_template")
    return _read_fast(data, str(template or ""))


def _reader(last: str) -> Callable[[bytes], int]:
    if last in _SENTENCE_PIECES or last.startswith("tokenizer.model."):
        return _read_sentence_pieces
    if last.endswith(".tiktoken"):
        return _read_ranks
    return _read_tekken if last == "tekken.json" else _read_words


def _read_fast(data: bytes, template: str) -> int:
    """Ids of a tokenizer.json, loaded as the server loads it.

    A special token is in a prompt only where the chat template puts it; others, for padding or pictures, do no harm.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_buffer(data)
        added = loaded.get_added_tokens_decoder()
        unused = {number for number, each in added.items() if each.special and each.content not in template}
        ids = {*loaded.get_vocab(with_added_tokens=True).values()}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is none of Exception
        raise _Faulty(error) from None
    return max(ids - unused, default=-1) + 1


def _read_sentence_pieces(data: bytes) -> int:
    """Ids of a sentencepiece model; loaded by the library where it is installed, which takes whole files only."""
    n_pieces = _count_pieces(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sentencepiece import SentencePieceProcessor
    except ImportError:
        return n_pieces
    try:
        loaded = SentencePieceProcessor(model_proto=data)
    except Exception as error:  # it raises what its C++ raises
        raise _Faulty(error) from None
    return int(loaded.vocab_size())


def _count_pieces(data: bytes) -> int:
    """Entries of field 1 in a sentencepiece model, which is one protobuf message from the first byte to the last.

    Source: protocol buffers' wire format; sentencepiece_model.proto.
    """
    at, n_pieces = 0, 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == 2:
            n_bytes, at = _varint(data, at)
            at += n_bytes
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise _Faulty("it is no sentencepiece model")
        n_pieces += field == 1 and kind == 2
    if at > len(data):
        raise _Faulty(f"it has {len(data)} bytes, and what it describes needs {at} at least")
    if not n_pieces:
        raise _Faulty("it is no sentencepiece model: it has no pieces")
    return n_pieces


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise _Faulty("it stops in the middle of a number")
        value |= (data[at + place] & 0x7F) << (7 * place)
        if data[at + place] < 0x80:
            return value, at + place + 1
    raise _Faulty("it is no sentencepiece model")


def _read_ranks(data: bytes) -> int:
    """Ids of a file in tiktoken's form: each line a token in base64 and its rank."""
    highest = -1
    for line in data.splitlines():
        token, _, rank = line.partition(b" ")
        try:
            base64.b64decode(token, validate=True)
            highest = max(highest, int(rank))
        except (binascii.Error, ValueError):
            raise _Faulty(f"this line is no token and rank: {line[:40]!r}") from None
    if highest < 0:
        raise _Faulty("it is empty")
    return highest + 1


def _read_tekken(data: bytes) -> int:
    content = parsed(data)
    if not isinstance(content, dict) or not isinstance(content.get("vocab"), list) or not content["vocab"]:
        raise _Faulty("it has no list 'vocab'")
    config = content.get("config")
    size = config.get("default_vocab_size") if isinstance(config, dict) else None
    return size if isinstance(size, int) else len(content["vocab"])


def _read_words(data: bytes) -> int:
    """Ids of vocab.json, or of vocab.txt with one token a line."""
    if data.lstrip()[:1] == b"{":
        content = parsed(data)
        ids = [each for each in content.values() if isinstance(each, int)] if isinstance(content, dict) else []
        if not ids:
            raise _Faulty("it has no ids")
        return max(ids) + 1
    n_lines = len(text_of(data).splitlines())
    if not n_lines:
        raise _Faulty("it is empty")
    return n_lines


def _pointers(files: ModelFiles, names: list[str]) -> list[str]:
    small = [name for name in names if files.sizes[name] <= _MAX_POINTER_BYTES]
    found = files.read_all([(name, 0, len(LFS_MARK)) for name in small])
    return [name for name, data in zip(small, found, strict=True) if data == LFS_MARK]


def _pointer(files: ModelFiles, name: str) -> Problem:
    message = f"{name} is a git-lfs pointer, not the file"
    return Problem(code="tokenizer.lfs-pointer", message=message, hint=pull_hint(files), path=files.at(name))
