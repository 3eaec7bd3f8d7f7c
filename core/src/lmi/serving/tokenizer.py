# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, without transformers: importing it costs seconds of CPU and brings torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import ArtifactError, RequestError
from lmi.api.folders import cache_root
from lmi.serving.token_decoder import Spelling, TokenDecoder, TokenTable, spelling_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

_LOG = logging.getLogger(__name__)
MANY_IDS = 16384
"""More of them take half a millisecond or more to become a text: others should not wait for it."""
_CONVERT_LIMIT_S = 600
_CONVERTER_VERSION = "2"
"""Part of the cache's key; raised when conversion changes."""
_VOCABULARY_PATTERNS = ("*.model", "*.tiktoken", "vocab*", "merges.txt", "tekken.json", "tokenizer*", "*token*.py")
_SETTING_FILES = ("config.json", "special_tokens_map.json", "added_tokens.json")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer(Protocol):
    """Turns text into the ids a model reads, and ids into text.

    ``vocab_size`` is one more than the highest id; ``eos_ids`` is what the tokenizer's own settings call the end of a
    text (a model's generation_config.json may know more).
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens."""

    def encode(self, text: str, *, adds_special: bool = True) -> list[int]:
        """Return the ids of a prompt, with the special tokens the tokenizer puts around a text.

        Args:
            text: the prompt.
            adds_special: False leaves those special tokens out.
        Raises:
            RequestError: the text holds half a surrogate pair, which no encoding can carry.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids without special tokens; equal to what ``decoder()`` gives piece by piece."""

    def decoder(self, after: Sequence[int] = (), *, shows_special: bool | frozenset[int] = False) -> TokenDecoder:
        """Return a decoder for one growing text; special tokens have no text unless it ``shows_special``.

        Args:
            after: ids that the text goes on with; as ``Spelling`` has it.
            shows_special: special tokens have a text like all others: all of them, or those of these ids.
        """

    def token_bytes(self, token_id: int, *, shows_special: bool | frozenset[int] = False) -> bytes:
        """Return what one id adds within a text: its own bytes, which need not be whole characters."""


class ByteTokenizer:
    """The bytes of UTF-8 as ids 0 to 255: needs no files, for backends that need no model."""

    vocab_size = 256
    eos_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()

    def __init__(self) -> None:
        # Latin-1 maps each code point below 256 to the byte of that number.
        self._table = TokenTable(lambda i: chr(i) if 0 <= i < 256 else None, lambda token: token.encode("latin-1"))

    def encode(self, text: str, *, adds_special: bool = True) -> list[int]:
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:
            raise _not_unicode(text) from error

    def decode(self, ids: Iterable[int]) -> str:
        return _decode(self.decoder(), ids)

    def decoder(self, after: Sequence[int] = (), *, shows_special: bool | frozenset[int] = False) -> TokenDecoder:
        return self._table.decoder(after)

    def token_bytes(self, token_id: int, *, shows_special: bool | frozenset[int] = False) -> bytes:
        return self._table.data(token_id)


class FileTokenizer:
    """A tokenizer.json, completed by what tokenizer_config.json says about special tokens.

    Ids equal those of transformers' ``AutoTokenizer`` wherever that takes the file as it stands. Options that only the
    Python classes of transformers know are left alone: ``add_bos_token`` (the file says it), and
    ``clean_up_tokenization_spaces`` (it deletes blanks the model wrote).

    Args:
        file: the tokenizer.json.
        config: the decoded tokenizer_config.json.
    """

    def __init__(self, file: Path, config: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as RustTokenizer  # a server of byte-level models needs none

        try:
            self._rust = RustTokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing more special
            raise ArtifactError(
                "tokenizer.unreadable", f"{file} cannot be read: {error}", (), "Get the file again"
            ) from error
        # A file may carry the padding and truncation of its training, which would cut prompts silently.
        self._rust.no_padding()
        self._rust.no_truncation()
        try:
            _add_special_tokens(self._rust, config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"{file.with_name('tokenizer_config.json')} describes its special tokens in a way unknown: {error!r}"
            raise ArtifactError("tokenizer.unreadable", text, (), "Get the file again") from error
        self._spellings: dict[bool | frozenset[int], Spelling] = {False: spelling_of(self._rust)}
        added = self._rust.get_added_tokens_decoder().items()
        self.special_ids = frozenset(token_id for token_id, token in added if token.special)
        self.vocab_size: int = max(self._rust.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        eos_id = self._rust.token_to_id(_content(config.get("eos_token")) or "")
        self.eos_ids: tuple[int, ...] = () if eos_id is None else (eos_id,)

    def encode(self, text: str, *, adds_special: bool = True) -> list[int]:
        try:
            # Unlike encode, it lets other threads run meanwhile, and computes no offsets that nobody reads.
            [encoding] = self._rust.encode_batch_fast([text], add_special_tokens=adds_special)
        except TypeError as error:  # how tokenizers says that the text has no UTF-8 form
            raise _not_unicode(text) from error
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return _decode(self.decoder(), ids)

    def decoder(self, after: Sequence[int] = (), *, shows_special: bool | frozenset[int] = False) -> TokenDecoder:
        return self._spelling(shows_special).decoder(after)

    def token_bytes(self, token_id: int, *, shows_special: bool | frozenset[int] = False) -> bytes:
        return self._spelling(shows_special).data(token_id)

    @property
    def definition(self) -> str:
        """The tokenizer.json, with all special tokens."""
        text: str = self._rust.to_str()
        return text

    def _spelling(self, shows_special: bool | frozenset[int]) -> Spelling:
        """Kept, each of them: what is asked for are the marks of a few formats."""
        shown = shows_special or False
        kept = self._spellings.get(shown)
        if kept is None:
            kept = self._spellings[shown] = spelling_of(self._rust, shows_special=shown)
        return kept


def load_tokenizer(
    artifacts: ModelArtifacts,
    *,
    trust_remote_code: bool = False,
    python_executable: str = sys.executable,
    cache: Path | None = None,
) -> Tokenizer:
    """Load the tokenizer that lies beside the model; blocking, for start-up.

    Args:
        artifacts: the model; ArtifactFormat.NONE gets a ByteTokenizer.
        trust_remote_code: a conversion may run Python files that come with the model.
        python_executable: the Python that converts a tokenizer without tokenizer.json; needs transformers.
        cache: where converted tokenizers are kept; by default ``tokenizers`` in ``cache_root``.
    Raises:
        ArtifactError: there is no tokenizer, it is broken, or it cannot be converted; the code says which.
    """
    if artifacts.format is ArtifactFormat.NONE:
        return ByteTokenizer()
    folder = artifacts.path / artifacts.inner
    config = _settings(folder)
    if (folder / "tokenizer.json").is_file():
        return FileTokenizer(folder / "tokenizer.json", config)
    files = _vocabulary_files(folder)
    if not files:
        text = f"no tokenizer in {folder}: no tokenizer.json, tokenizer.model, vocab.json or vocab.txt"
        raise ArtifactError("tokenizer.missing", text, (), "Copy the tokenizer's files from where the model came from")
    kept = (cache or cache_root(os.environ) / "tokenizers") / _cache_key(files, trust_remote_code) / "tokenizer.json"
    if kept.is_file():
        return FileTokenizer(kept, config)
    with tempfile.TemporaryDirectory(prefix="lmi-tokenizer-") as scratch:
        converted = Path(scratch) / "tokenizer.json"
        _convert(folder, converted, trust_remote_code, python_executable)
        _keep(converted, kept)
        return FileTokenizer(converted, config)


def definition_of(artifacts: ModelArtifacts, *, trust_remote_code: bool = False) -> str:
    """The tokenizer.json of a model, as text, with all special tokens; converted where there is none.

    Args:
        artifacts, trust_remote_code: as ``load_tokenizer`` has them.
    Raises:
        ArtifactError: as ``load_tokenizer`` does, or the model has no files.
    """
    tokenizer = load_tokenizer(artifacts, trust_remote_code=trust_remote_code)
    if isinstance(tokenizer, FileTokenizer):
        return tokenizer.definition
    raise ArtifactError("tokenizer.missing", "a model without files has no tokenizer.json", (), "")


# --------------------------------------------------------------------------------------------- settings of the file


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the special tokens that older models keep in a file of their own."""
    config = _json_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # transformers reads the old file on the same condition
        config = {**config, **_json_object(folder / "special_tokens_map.json")}
    return config


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        text = f"{path} cannot be read: {error}"
        raise ArtifactError("tokenizer.unreadable", text, (), "Get the file again") from error
    return value if isinstance(value, dict) else {}


def _add_special_tokens(rust: RustTokenizer, config: dict[str, Any]) -> None:
    """Add the tokens that only the settings name, as transformers does when it loads the two files."""
    from tokenizers import AddedToken

    listed = sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    for _, entry in listed:
        if rust.token_to_id(entry["content"]) is None:
            rust.add_tokens([AddedToken(entry["content"], **{flag: entry.get(flag, False) for flag in flags})])
    special = {token.content for token in rust.get_added_tokens_decoder().values() if token.special}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    entries = [config.get(name) for name in _NAMED_TOKENS] + list(extra.values() if isinstance(extra, dict) else extra)
    for content in filter(None, map(_content, entries)):
        if content not in special:
            rust.add_special_tokens([AddedToken(content, normalized=False, special=True)])


def _content(entry: Any) -> str | None:
    """The text of a special token, written plainly or as a table with its flags."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


# ------------------------------------------------------------------------------------------------------- conversion


def _vocabulary_files(folder: Path) -> list[Path]:
    found = {path for pattern in _VOCABULARY_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    if all(path.name == "tokenizer_config.json" for path in found):
        return []
    found.update(path for name in _SETTING_FILES if (path := folder / name).is_file())
    return sorted(found)


def _cache_key(files: list[Path], trust_remote_code: bool) -> str:
    digest = hashlib.sha256(f"{_CONVERTER_VERSION} {trust_remote_code}".encode())
    for path in files:
        data = path.read_bytes()
        digest.update(f"\n{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:32]


def _convert(folder: Path, converted: Path, trust_remote_code: bool, python_executable: str) -> None:
    """Run transformers in a process of its own."""
    command = [python_executable, "-m", "lmi.serving.convert_tokenizer", str(folder), str(converted)]
    command += ["--trust-remote-code"] if trust_remote_code else []
    _LOG.info("converting the tokenizer of %s, once", folder)
    reason = ""
    try:
        run = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=_CONVERT_LIMIT_S,
        )
        if run.returncode:
            lines = list(_written_lines(run.stderr))
            reason = lines[-1] if lines else f"{python_executable} ended with code {run.returncode}"
        elif not converted.is_file():
            reason = f"{python_executable} wrote no tokenizer.json"
    except OSError as error:
        reason = f"{python_executable} cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        reason = f"conversion took longer than {_CONVERT_LIMIT_S} s"
    if reason:
        text = f"the tokenizer in {folder} has no tokenizer.json and cannot be converted: {reason}"
        raise ArtifactError(
            "tokenizer.not-convertible",
            text,
            (),
            "Save a tokenizer.json beside the model, or install lmi-core[convert]",
        )


def _written_lines(data: bytes) -> Iterator[str]:
    return (line.strip() for line in data.decode(errors="replace").splitlines() if line.strip())


def _keep(converted: Path, kept: Path) -> None:
    """Copy into the cache under the final name in one move; a cache that cannot be written is only slower."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=kept.parent)) / kept.name
        shutil.copyfile(converted, partial)
        partial.replace(kept)
        partial.parent.rmdir()
    except OSError as error:
        _LOG.warning("the converted tokenizer cannot be kept in %s (%s); the next start converts again", kept, error)


# ------------------------------------------------------------------------------------------------------------- text


def _decode(decoder: TokenDecoder, ids: Iterable[int]) -> str:
    return "".join(decoder.push(list(ids))) + decoder.flush()


def _not_unicode(text: str) -> RequestError:
    at = next(i for i, character in enumerate(text) if 0xD800 <= ord(character) <= 0xDFFF)
    return RequestError(
        "request.not-unicode",
        f"the text holds half a surrogate pair (U+{ord(text[at]):04X}) at character {at}",
        "Send whole characters: in JSON, both halves of the pair",
    )
