# SPDX-License-Identifier: Apache-2.0
"""Whether a fetched file is what the store holds.

An ETag of 32 hexadecimal digits is the MD5 of the content, unless the object is encrypted with a key of its own or the
store thinks otherwise. One with a dash behind them stands for parts whose sizes are nowhere told: it proves nothing.
So a file is refused only where the store says that its ETag is an MD5; elsewhere two readings that agree are believed.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from enum import Enum
from pathlib import Path

from lmi.artifacts.places.objects import ObjectFiles

_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?')
_ENCRYPTION = "x-amz-server-side-encryption"
_KEPT_BY_S3 = "AES256"
_MAX_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 1 << 20
_TIMEOUT_S = 10.0


class Verdict(Enum):
    """What is to be thought of a file.

    WHOLE: nothing speaks against it.
    DOUBTFUL: it differs from what its ETag or its own header seem to say.
    DAMAGED: it differs from what the store says it holds.
    """

    WHOLE = "whole"
    DOUBTFUL = "doubtful"
    DAMAGED = "damaged"


def judged(files: ObjectFiles, name: str, path: Path) -> Verdict:
    """What is to be thought of a file whose every byte has arrived.

    Args:
        files: where it came from.
        name: of the file there.
        path: of the file here.
    Raises:
        OSError: it cannot be read.
    """
    match = _MD5.fullmatch(files.versions[name].etag)
    if match is not None and md5_of(path) != match[1].lower():
        encryption = _encryption(files, name)
        if encryption == _KEPT_BY_S3:
            return Verdict.DAMAGED
        if not encryption:
            return Verdict.DOUBTFUL
    is_odd = name.endswith(".safetensors") and not _fits_header(path)
    # With a matching MD5 it is the object itself that is odd, which is for the checks of a model to tell.
    return Verdict.DOUBTFUL if is_odd and match is None else Verdict.WHOLE


def md5_of(path: Path) -> str:
    """The MD5 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _encryption(files: ObjectFiles, name: str) -> str:
    """How the store says that it keeps a file; "" where it does not say."""
    if not files.place.startswith("s3:"):
        return ""
    try:
        request = urllib.request.Request(files.signed(name), method="HEAD")  # noqa: S310 - the store's own address
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return str(answer.headers.get(_ENCRYPTION) or "")
    except Exception:  # obstore has errors of its own where nobody's credentials can sign
        return ""


def _fits_header(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if n_header > min(n_bytes, _MAX_HEADER_BYTES):
            return False
        try:
            header = json.loads(file.read(n_header))
            ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
            return bool(8 + n_header + max(ends, default=0) == n_bytes)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return False
