# SPDX-License-Identifier: Apache-2.0
"""Write the tokenizer.json of a model that has none: ``python -m lmi.serving.convert_tokenizer FOLDER FILE``.

A program of its own, because it imports transformers, which the server process never does. Its last line on stderr
says why it failed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

_SAMPLES = (
    "The capital of France is Paris.",
    "  two  blanks\n\tand a tab, don't we'll",
    "12345.67 naïve café 日本語 🙂 👩‍👩‍👧",
    " a blank before",
    "x",
)
_READERS = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf", "tiktoken": "tiktoken"}
"""What transformers needs to read some kinds of files: distribution and module."""


def main(arguments: list[str]) -> int:
    """Convert; returns the exit code."""
    trusts = "--trust-remote-code" in arguments
    folder, file = [argument for argument in arguments if not argument.startswith("--")]
    if not trusts:  # everything needed lies in the folder
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        convert(folder, file, trust_remote_code=trusts)
    except Exception as error:  # whatever transformers, or code that comes with a model, may raise
        # transformers tries one reader after the other and tells only of the last.
        missing = [name for name, module in _READERS.items() if not _is_installed(module)]
        absent = f" (not installed for {sys.executable}: {', '.join(missing)})" if missing else ""
        print(f"{type(error).__name__}: {' '.join(str(error).split())}{absent}", file=sys.stderr)
        return 1
    return 0


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False


def convert(folder: str, file: str, *, trust_remote_code: bool = False) -> None:
    """Write ``file`` from the tokenizer in ``folder`` and check that it gives the same ids.

    Where that is a vocabulary of sentencepiece, what counts are the pieces that this library makes of texts, with which
    the model was trained: transformers may lose a blank before a text, or put one there.

    Raises:
        ImportError: transformers, or what it needs to read this tokenizer, is not installed.
        ValueError: the tokenizer exists in Python only, or would change on the way.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    source = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    rust = getattr(source, "backend_tokenizer", None)
    if not isinstance(rust, Tokenizer):
        raise ValueError(f"{type(source).__name__} is written in Python and has no form that tokenizers can load")
    vocabulary = _sentencepiece_of(Path(folder))
    if vocabulary is not None:
        _follow(rust, vocabulary, is_legacy=_is_legacy(Path(folder)))
    rust.save(file)
    copy = Tokenizer.from_file(file)
    for text in _SAMPLES:
        expected, found = source(text)["input_ids"], copy.encode(text).ids
        if list(expected) != found:
            raise ValueError(f"{type(source).__name__} gives {expected} for {text!r}, its tokenizer.json {found}")


def _sentencepiece_of(folder: Path) -> SentencePieceProcessor | None:
    """The vocabulary of sentencepiece in a folder; None where there is none, or nothing that reads it."""
    if not _is_installed("sentencepiece") or not _is_installed("google.protobuf"):
        return None
    from sentencepiece import SentencePieceProcessor

    for path in sorted(folder.glob("*.model")):
        processor = SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(path.read_bytes())
        except RuntimeError:  # tiktoken's vocabularies are called tokenizer.model, too
            continue
        return processor
    return None


def _is_legacy(folder: Path) -> bool:
    """Whether settings leave it open, or say, that a blank may stand behind special tokens, too."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    return settings.get("legacy") is not False


def _follow(rust: Tokenizer, vocabulary: SentencePieceProcessor, *, is_legacy: bool) -> None:
    """Change what is done with a text before it falls into pieces, unless they are sentencepiece's already.

    Args:
        rust: what transformers made.
        vocabulary: what it was made from.
        is_legacy: a blank may also stand behind special tokens. Where the settings want none there, a text that begins
            with a blank may lose it: no form of tokenizers has both.
    Raises:
        ValueError: it cannot be done.
    """
    samples = [text for text in _SAMPLES if is_legacy or not text.startswith(" ")]
    if _difference(rust, vocabulary, samples) is None:
        return
    _prepare_as_vocabulary_says(rust, vocabulary)
    difference = _difference(rust, vocabulary, samples)
    if difference is not None:
        text, expected, found = difference
        raise ValueError(f"sentencepiece makes {expected} of {text!r}, a tokenizer.json would make {found}")


def _difference(
    rust: Tokenizer, vocabulary: SentencePieceProcessor, samples: list[str]
) -> tuple[str, list[str], list[str | None]] | None:
    """The first text that falls into other pieces; ids may differ, for some models shift them."""
    unknown = vocabulary.id_to_piece(vocabulary.unk_id())
    for text in samples:
        expected = [vocabulary.id_to_piece(token_id) for token_id in vocabulary.encode(text)]
        ids = rust.encode(text, add_special_tokens=False).ids
        found = [rust.id_to_token(token_id) for token_id in ids]
        if found != expected:
            return text, expected, found
        if unknown not in expected and rust.decode(ids) != vocabulary.decode(vocabulary.encode(text)):
            return text, expected, found
    return None


def _prepare_as_vocabulary_says(rust: Tokenizer, vocabulary: SentencePieceProcessor) -> None:
    """Source: ``NormalizerSpec`` of sentencepiece."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, decoders, normalizers

    model_type: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined] # made while it is imported
    spec = model_type.FromString(vocabulary.serialized_model_proto()).normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend("▁")] if spec.add_dummy_prefix else []
    rust.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    rust.pre_tokenizer = None
    stripping = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *stripping])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
