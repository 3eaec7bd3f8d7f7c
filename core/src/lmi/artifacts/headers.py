# SPDX-License-Identifier: Apache-2.0
"""Headers of safetensors files: which tensors a file holds, and whether it holds all of them.

Source: the safetensors format. 8 bytes of header length, little-endian; the header in JSON, beginning with ``{``; the
data of the tensors, one after the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

from lmi.artifacts.documents import why
from lmi.artifacts.places.files import ModelFiles

MAX_HEADER_BYTES = 100_000_000
"""Largest header a safetensors file may have. Source: the safetensors format."""

_LENGTH_BYTES = 8
_FIRST_READ_BYTES = (16 << 10, 128 << 10)
"""Least and most that is read of each file before its header's length is known."""
_FIRST_READS_TOTAL_BYTES = 2 << 20

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one number of each dtype there is."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int

    @property
    def n_numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself.

    Args:
        name: of the file.
        tensors: name -> entry; empty where something is wrong.
        code: of the problem, or "".
        message: what is wrong.
        hint: what to do, where that is known.
    """

    name: str
    tensors: dict[str, Tensor]
    code: str = ""
    message: str = ""
    hint: str = ""


_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
"""What a server answered instead of the file. As a length, it would be far beyond any header's."""
_NOT_A_PAGE = "Get the file again; its source may want a token, or may have moved"


class _Wrong(ValueError):
    pass


_KNOWN: WeakKeyDictionary[ModelFiles, dict[str, Header]] = WeakKeyDictionary()


def headers_of(files: ModelFiles, names: Sequence[str]) -> list[Header]:
    """The headers of safetensors files, in the order of the names; whatever is wrong with one is told in it.

    Each file is read once for one ``files``: a first part at a guess, the rest where the header is longer.

    Args:
        files: the place.
        names: of files that are there.
    """
    known = _KNOWN.setdefault(files, {})
    wanted = [name for name in names if name not in known]
    if wanted:
        least, most = _FIRST_READ_BYTES
        first_bytes = max(least, min(most, _FIRST_READS_TOTAL_BYTES // len(wanted)))
        first = files.read_all([(name, 0, first_bytes) for name in wanted])
        rests = {name: _rest_of(files.sizes[name], data) for name, data in zip(wanted, first, strict=True)}
        longer = {name: rest for name, rest in rests.items() if rest is not None}
        more = dict(zip(longer, files.read_all([(name, *rest) for name, rest in longer.items()]), strict=True))
        for name, data in zip(wanted, first, strict=True):
            known[name] = _header(name, files.sizes[name], data, more.get(name, b""))
    return [known[name] for name in names]


def _rest_of(n_bytes: int, data: bytes | OSError) -> tuple[int, int] | None:
    """The part of the header that was not read yet; None where there is none, or what is there is no header."""
    if isinstance(data, OSError) or len(data) <= _LENGTH_BYTES or data[_LENGTH_BYTES] != ord("{"):
        return None
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) >= end or end > n_bytes or end > MAX_HEADER_BYTES:
        return None
    return len(data), end - len(data)


def _header(name: str, n_bytes: int, first: bytes | OSError, rest: bytes | OSError) -> Header:
    if isinstance(first, OSError) or isinstance(rest, OSError):
        reason, hint = next(why(error) for error in (first, rest) if isinstance(error, OSError))
        message = f"{name} cannot be read: {reason}"
        return Header(name=name, tensors={}, code="weights.unreadable", message=message, hint=hint)
    page = _PAGE.match(first)
    if page:
        message = f"{name} begins with '{page[1].decode()}': a web page, not weights"
        return Header(name=name, tensors={}, code="weights.unreadable", message=message, hint=_NOT_A_PAGE)
    return _parsed(name, n_bytes, first + rest)


def _parsed(name: str, n_bytes: int, data: bytes) -> Header:
    n_header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if n_bytes < _LENGTH_BYTES or (n_header_bytes <= MAX_HEADER_BYTES and n_bytes < _LENGTH_BYTES + n_header_bytes):
        return _cut(name, n_bytes, _LENGTH_BYTES + n_header_bytes)
    try:
        if n_header_bytes > MAX_HEADER_BYTES:
            raise _Wrong(f"a header of {n_header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed")
        tensors, n_data_bytes = _tensors(data[_LENGTH_BYTES : _LENGTH_BYTES + n_header_bytes])
    except (ValueError, RecursionError) as error:
        message = f"{name} has no safetensors header: {error}"
        return Header(name=name, tensors={}, code="weights.unreadable", message=message)
    expected_bytes = _LENGTH_BYTES + n_header_bytes + n_data_bytes
    if n_bytes < expected_bytes:
        return _cut(name, n_bytes, expected_bytes)
    if n_bytes > expected_bytes:
        message = f"{name} has {n_bytes} bytes, its header describes {expected_bytes}"
        return Header(name=name, tensors={}, code="weights.unreadable", message=message)
    return Header(name=name, tensors=tensors)


def _cut(name: str, n_bytes: int, expected_bytes: int) -> Header:
    message = f"{name} has {n_bytes} bytes of {expected_bytes}" if n_bytes else f"{name} is empty"
    return Header(name=name, tensors={}, code="weights.truncated", message=message)


def _tensors(data: bytes) -> tuple[dict[str, Tensor], int]:
    """The entries of a header, and how many bytes of data they describe."""
    content = json.loads(data.decode("utf-8"))
    if not isinstance(content, dict):
        raise _Wrong("it is no JSON object")
    metadata = content.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(each, str) for each in metadata.values())
    ):
        raise _Wrong("its __metadata__ is no table of texts")
    placed = sorted((*_entry(name, entry), name) for name, entry in content.items())
    end = 0
    for start, stop, name in placed:
        if start != end:
            what = "overlaps the tensor before it" if start < end else "leaves a hole before it"
            raise _Wrong(f"{name[:80]!r} begins at byte {start} and {what}, which ends at {end}")
        end = stop
    tensors = {
        name: Tensor(dtype=content[name]["dtype"], shape=tuple(content[name]["shape"]), n_bytes=stop - start)
        for start, stop, name in placed
    }
    return tensors, end


def _entry(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's data is, if dtype, shape and place agree."""
    if not isinstance(entry, dict):
        raise _Wrong(f"{name[:80]!r} is no JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Wrong(f"{name[:80]!r} has dtype {str(dtype)[:40]!r}, which the format does not know")
    if not isinstance(shape, list) or not _are_sizes(shape) or len(shape) > 64:
        raise _Wrong(f"{name[:80]!r} has no shape")
    if not isinstance(offsets, list) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _Wrong(f"{name[:80]!r} has no data_offsets")
    n_bits, (start, stop) = prod(shape) * BITS[dtype], offsets
    if n_bits != (stop - start) * 8:
        raise _Wrong(f"{name[:80]!r} of shape {shape} in {dtype} has {stop - start} bytes, {n_bits / 8:g} are needed")
    return start, stop


def _are_sizes(values: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each < 1 << 63 for each in values)
