# SPDX-License-Identifier: Apache-2.0
"""Write the tokenizer.json of a model that has none: ``python -m lmi.serving.convert_tokenizer FOLDER FILE``.

A program of its own, because it imports transformers, which the server process never does. Its last line on stderr
says why it failed.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_SAMPLES = (
    "The capital of France is Paris.",
    "  two  blanks\n\tand a tab, don't we'll",
    "12345.67 naïve café 日本語 🙂 👩‍👩‍👧",
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
    rust.save(file)
    copy = Tokenizer.from_file(file)
    for text in _SAMPLES:
        expected, found = source(text)["input_ids"], copy.encode(text).ids
        if list(expected) != found:
            raise ValueError(f"{type(source).__name__} gives {expected} for {text!r}, its tokenizer.json {found}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
