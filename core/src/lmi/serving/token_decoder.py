# SPDX-License-Identifier: Apache-2.0
"""Token ids to text, one piece of text an id, while they are being generated.

Almost every tokenizer joins its tokens byte by byte, so an id always adds the same bytes and a table does the work: a
look-up an id (0.2 us, where ``tokenizers.decoders.DecodeStream`` takes 1.6 us and decoding a window twice 2.9 us; the
stream also never releases broken bytes). The few other kinds are decoded in a sliding window.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MAX_WINDOW_IDS = 16
"""A window that ends in the middle of a character for longer than this holds broken bytes."""
_N_BEFORE = 4
"""Ids before an output that its first ids are read with."""


class TokenDecoder(Protocol):
    """The text of one growing output."""

    def push(self, ids: Sequence[int]) -> list[str]:
        """Return the text each id adds, one piece an id.

        A character that is not complete adds ""; all of it arrives with the id that completes it.
        """

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed, mostly ""."""


class Spelling(Protocol):
    """What the ids of one tokenizer are as text."""

    def decoder(self, after: Sequence[int] = ()) -> TokenDecoder:
        """Return what decodes one growing text.

        Args:
            after: ids that it goes on with, a prompt's, say. A text without any begins: in some tokenizers its first
                token loses a blank.
        """

    def data(self, token_id: int) -> bytes:
        """The bytes an id adds within a text; none for an id that is silent or unknown."""


class TokenTable(dict[int, str | None]):
    """The text of every id, None where it is not whole characters; filled as ids are first seen.

    Args:
        find_token: the token of an id; None where there is none.
        to_bytes: what a token adds to the text.
        to_first_bytes: the same for a text's first token, where that differs.
        silent_ids: ids whose text is never shown (special tokens).
    """

    def __init__(
        self,
        find_token: Callable[[int], str | None],
        to_bytes: Callable[[str], bytes],
        to_first_bytes: Callable[[str], bytes] | None = None,
        silent_ids: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self._find_token = find_token
        self._to_bytes = to_bytes
        self._to_first_bytes = to_first_bytes
        self._silent_ids = silent_ids
        self._bytes: dict[int, bytes] = {}
        self.has_first = to_first_bytes is not None

    def __missing__(self, token_id: int) -> str | None:
        data = self.data(token_id)
        try:
            text: str | None = data.decode()
        except UnicodeDecodeError:
            text = None
        self[token_id] = text
        return text

    def data(self, token_id: int) -> bytes:
        """See ``Spelling``."""
        data = self._bytes.get(token_id)
        if data is None:
            token = self._visible(token_id)
            data = self._bytes[token_id] = b"" if token is None else self._to_bytes(token)
        return data

    def decoder(self, after: Sequence[int] = ()) -> TableDecoder:
        """See ``Spelling``."""
        return TableDecoder(self, is_at_start=self.has_first and not after)

    def first_data(self, token_id: int) -> bytes | None:
        """The bytes an id adds as the first one of a text; None for an id that adds nothing anywhere."""
        token = self._visible(token_id)
        if token is None or self._to_first_bytes is None:
            return None
        return self._to_first_bytes(token)

    def _visible(self, token_id: int) -> str | None:
        return None if token_id in self._silent_ids else self._find_token(token_id)


class TableDecoder:
    """Decoder over a table that all outputs of a model share; holds at most three bytes of its own.

    Each incomplete or broken character becomes one U+FFFD (the Unicode standard's "maximal subpart" practice).

    Args:
        table: of the tokenizer.
        is_at_start: a text begins whose first token has a text of its own.
    """

    __slots__ = ("_is_at_start", "_is_plain", "_pending", "_table")

    def __init__(self, table: TokenTable, *, is_at_start: bool) -> None:
        self._table = table
        self._pending = b""
        self._is_at_start = is_at_start
        self._is_plain = not is_at_start
        """Nothing is pending: whole characters may be looked up."""

    def push(self, ids: Sequence[int]) -> list[str]:
        if self._is_plain:
            table = self._table
            if len(ids) == 1:  # a stream's usual case, a third faster so
                text = table[ids[0]]
                if text is not None:
                    return [text]
            else:
                pieces = [table[token_id] for token_id in ids]
                if None not in pieces:
                    return pieces  # type: ignore[return-value] # mypy does not narrow by "in"
        texts = [self._push(token_id) for token_id in ids]
        self._is_plain = not (self._pending or self._is_at_start)
        return texts

    def flush(self) -> str:
        text, self._pending = self._pending.decode(errors="replace"), b""
        return text

    def _push(self, token_id: int) -> str:
        if self._is_at_start:
            data = self._table.first_data(token_id)
            if data is None:
                return ""
            self._is_at_start = False
        else:
            text = self._table[token_id]
            if text is not None and not self._pending:
                return text
            data = self._table.data(token_id)
        self._pending += data
        text, n_bytes = codecs.utf_8_decode(self._pending, "replace", False)
        self._pending = self._pending[n_bytes:]
        return text


class WindowDecoder:
    """Decoder for tokenizers whose tokens change with their neighbours (WordPiece, say).

    The text of an id is what it adds to the text of the ids just before it.
    Source: the sliding window of text-generation-inference.

    Args:
        decode: the text of ids.
        silent_ids: ids whose text is never shown.
        before: ids that the text goes on with, none of them silent.
    """

    __slots__ = ("_decode", "_n_read", "_silent_ids", "_window")

    def __init__(
        self, decode: Callable[[list[int]], str], silent_ids: frozenset[int], before: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._silent_ids = silent_ids
        self._window = [*before]
        self._n_read = len(before)
        """Ids of the window whose text was given out; the rest waits for a complete character."""

    def push(self, ids: Sequence[int]) -> list[str]:
        return ["" if token_id in self._silent_ids else self._push(token_id) for token_id in ids]

    def flush(self) -> str:
        return self._take(self._decode(self._window))

    def _push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        if text.endswith(_BROKEN) and len(self._window) - self._n_read < _MAX_WINDOW_IDS:
            return ""
        return self._take(text)

    def _take(self, text: str) -> str:
        seen = self._decode(self._window[: self._n_read]) if self._n_read else ""
        if len(text) <= len(seen):
            return ""
        self._window = self._window[self._n_read :]
        self._n_read = len(self._window)
        return text[len(seen) :]


class _Neighbours:
    """The spelling of a tokenizer whose tokens change with their neighbours.

    Args:
        decode, silent_ids: as in WindowDecoder.
    """

    def __init__(self, decode: Callable[[list[int]], str], silent_ids: frozenset[int]) -> None:
        self._decode = decode
        self._silent_ids = silent_ids

    def decoder(self, after: Sequence[int] = ()) -> WindowDecoder:
        """See ``Spelling``."""
        before = [token_id for token_id in after[-_MAX_WINDOW_IDS:] if token_id not in self._silent_ids]
        return WindowDecoder(self._decode, self._silent_ids, before[-_N_BEFORE:])

    def data(self, token_id: int) -> bytes:
        """See ``Spelling``: what it adds behind itself."""
        if token_id in self._silent_ids:
            return b""
        return self._decode([token_id, token_id])[len(self._decode([token_id])) :].encode()


def spelling_of(rust: RustTokenizer, *, shows_special: bool | frozenset[int] = False) -> Spelling:
    """Return what makes texts of the ids of this tokenizer.

    Args:
        rust: the tokenizer.
        shows_special: special tokens have a text like all others: all of them, or those of these ids.
    """
    shown_ids = shows_special if isinstance(shows_special, frozenset) else frozenset()
    special = [] if shows_special is True else rust.get_added_tokens_decoder().items()
    silent_ids = frozenset(i for i, token in special if token.special and i not in shown_ids)
    rules = _byte_rules(json.loads(rust.decoder.__getstate__()) if rust.decoder is not None else None)
    if rules is not None:
        return TokenTable(rust.id_to_token, *rules, silent_ids)

    def decode(ids: list[int]) -> str:
        return str(rust.decode(ids, skip_special_tokens=False))

    return _Neighbours(decode, silent_ids)


# ------------------------------------------------------------------------------- what a token's text is, as bytes

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_Rules = tuple[Callable[[str], bytes], Callable[[str], bytes] | None]


def _byte_rules(spec: dict[str, Any] | None) -> _Rules | None:
    """Translate the decoder of a tokenizer.json; None where tokens are not simply joined byte by byte."""
    kind = spec["type"] if spec else None
    if spec is None or kind is None:
        return None
    if kind == "ByteLevel":
        return _byte_level, None
    if kind == "Metaspace":
        return _metaspace_rules(spec)
    if kind == "Sequence":
        return _sentencepiece_rules(spec["decoders"])
    return None


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte. Source: GPT-2's ``bytes_to_unicode``."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_LEVEL[character] for character in token])
    except KeyError:  # an added token, which stands for itself
        return token.encode()


def _metaspace_rules(spec: dict[str, Any]) -> _Rules:
    blank = spec["replacement"]

    def to_bytes(token: str) -> bytes:
        return token.replace(blank, " ").encode()

    def to_first_bytes(token: str) -> bytes:
        return token.replace(blank, "").encode()

    return to_bytes, None if spec.get("prepend_scheme", "always") == "never" else to_first_bytes


def _sentencepiece_rules(steps: list[dict[str, Any]]) -> _Rules | None:
    """Replace, ByteFallback, Fuse and, in most, Strip of one leading blank: Llama 2, Mistral, Gemma, Phi-3."""
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level, None
    if kinds[:3] != ["Replace", "ByteFallback", "Fuse"] or kinds[3:] not in ([], ["Strip"]):
        return None
    pattern, blank = steps[0]["pattern"].get("String"), steps[0]["content"]
    if pattern is None:
        return None

    def to_bytes(token: str) -> bytes:
        text = token.replace(pattern, blank)
        byte = _BYTE.fullmatch(text)
        return bytes.fromhex(byte[1]) if byte else text.encode()

    if not kinds[3:]:
        return to_bytes, None
    strip = steps[3]
    if (strip["content"], strip["start"], strip["stop"]) != (" ", 1, 0):
        return None
    return to_bytes, lambda token: to_bytes(token).removeprefix(b" ")
