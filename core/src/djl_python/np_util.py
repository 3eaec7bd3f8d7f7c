# SPDX-License-Identifier: Apache-2.0
"""NDList, the tensor format of DJL: arrays between Java and Python.

Big-endian: the number of arrays; for each: the text ``NDAR``, a version (3), whether a name follows and the name, the
sparse format, the type, the shape with a layout of two-byte characters, the byte order, the length and the data. A text
is its length in two bytes and UTF-8.
"""

from __future__ import annotations

import io
import struct
from typing import Any

_MAGIC = "NDAR"
_VERSION = 3


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, n_bytes: int) -> bytes:
        part = self._data[self._at : self._at + n_bytes]
        if len(part) < n_bytes:
            raise ValueError(f"the NDList ends after {len(self._data)} bytes, in the middle of an array")
        self._at += n_bytes
        return part

    def number(self, code: str) -> int:
        value: int = struct.unpack(f">{code}", self.take(struct.calcsize(code)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("H")).decode()


def from_nd_list(encoded: bytes | bytearray) -> list[Any]:
    """The arrays of an NDList; npz and npy files are read too.

    Raises:
        ValueError: it is none of them.
    """
    import numpy as np

    data = bytes(encoded)
    if data[:2] == b"PK":
        with np.load(io.BytesIO(data)) as archive:
            return [archive[name] for name in archive.files]
    if data[:6] == b"\x93NUMPY":
        return [np.load(io.BytesIO(data))]
    reader = _Reader(data)
    arrays = []
    for _ in range(reader.number("i")):
        magic, version = reader.text(), reader.number("i")
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError(f"no NDList of version {_VERSION}: {magic!r}, version {version}")
        if reader.take(1) == b"\x01":
            reader.text()
        reader.text()
        dtype = np.dtype(reader.text().lower())
        shape = [reader.number("q") for _ in range(reader.number("i"))]
        reader.take(2 * reader.number("i"))
        order = reader.take(1).decode()
        content = reader.take(reader.number("i"))
        arrays.append(np.frombuffer(content, dtype.newbyteorder(">" if order == ">" else "<")).reshape(shape))
    return arrays


def to_nd_list(arrays: Any) -> bytes:
    """An array, or a list of them, as NDList."""
    import numpy as np

    listed = arrays if isinstance(arrays, (list, tuple)) else [arrays]
    parts = [struct.pack(">i", len(listed))]
    for each in listed:
        array = np.asarray(each)
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        parts += [_text(_MAGIC), struct.pack(">iB", _VERSION, 0), _text("default"), _text(str(array.dtype).upper())]
        parts.append(struct.pack(f">i{array.ndim}qi", array.ndim, *array.shape, array.ndim))
        parts.append(("?" * array.ndim).encode("utf-16-be"))
        parts += [b"<", struct.pack(">i", len(content)), content]
    return b"".join(parts)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data
