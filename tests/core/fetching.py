# SPDX-License-Identifier: Apache-2.0
"""A small model in a bucket behind a proxy, and what is looked at when it was fetched."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.api import ArtifactError
from lmi.artifacts.places import transfer
from lmi.artifacts.places.download import download
from lmi.artifacts.places.objects import ObjectFiles
from tests.buckets import Bucket
from tests.proxies import Proxy, proxy_before

URL = "s3://bucket/m"
KIB = 1 << 10
PART, CHUNK = 256 * KIB, 64 * KIB
BIG = random.Random(1).randbytes(1000 * KIB + 17)
MODEL = {"config.json": b"{}", "model.bin": BIG, "1/we ird%#.txt": b"odd", "empty": b""}


@contextlib.contextmanager
def model_behind_proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the bucket, which holds the model; parts are small."""
    monkeypatch.setattr(transfer, "PART_BYTES", PART)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", CHUNK)
    for name, content in MODEL.items():
        bucket.put(f"m/{name}", content)
    with proxy_before(bucket.environ["AWS_ENDPOINT_URL"]) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


def fetch(root: Path, names: list[str] | None = None, **options) -> Path:
    files = ObjectFiles(URL)
    return download(files, names or list(files.sizes), root=root, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def refusal(root: Path, **options) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        fetch(root, **options)
    assert finished(root) == []
    return caught.value


def finished(root: Path) -> list[Path]:
    """Folders that a later start would take for whole."""
    return [path.parent for path in root.glob("models/*/*/.lmi-complete.json") if not path.parent.name.startswith(".")]
