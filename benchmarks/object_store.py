# SPDX-License-Identifier: Apache-2.0
"""A folder served as an S3 server would, as fast as one Python process can: listings, HEAD, GET with ranges.

    python benchmarks/object_store.py FOLDER [LONGEST_PUT_BYTES]

Prints ``Running on URL``. Each folder in FOLDER is a bucket. Nothing is authenticated. Files up to 8 MiB, or as said,
have their MD5 as ETag, as after one PUT; longer ones have what an upload in parts leaves, which stands for no digest.
Files may be sparse: what is not written costs no disk, so a model of any size can be stood for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PART_BYTES = 8 << 20
_DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


class Folder:
    """What is served.

    Args:
        root: the folder with the buckets.
        longest_put_bytes: of a file whose ETag is its MD5.
    """

    def __init__(self, root: Path, longest_put_bytes: int) -> None:
        self.root, self._longest_put_bytes = root, longest_put_bytes
        self._etags: dict[tuple[Path, int, int], str] = {}

    def etag(self, path: Path) -> str:
        """The ETag of a file, with its quotes."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._etags:
            is_small = stat.st_size <= self._longest_put_bytes
            digest = hashlib.md5(path.read_bytes() if is_small else str(key).encode()).hexdigest()
            self._etags[key] = f'"{digest}"' if is_small else f'"{digest}-{-(-stat.st_size // PART_BYTES)}"'
        return self._etags[key]

    def listing(self, bucket: str, prefix: str) -> bytes:
        """The answer to ListObjectsV2."""
        base = self.root / bucket
        paths = sorted(path for path in base.rglob("*") if path.is_file())
        names = {path.relative_to(base).as_posix(): path for path in paths}
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.etag(path))}</ETag><Size>{path.stat().st_size}</Size></Contents>"
            for name, path in names.items()
            if name.startswith(prefix)
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{rows.count('<Key>')}</KeyCount>"
            f"<MaxKeys>100000</MaxKeys><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        ).encode()


def answer(folder: Folder, client: socket.socket, method: str, target: str, wanted: str) -> None:
    """Answer one request; ``wanted`` is the header Range."""
    url = urlsplit(target)
    bucket, _, key = unquote(url.path).strip("/").partition("/")
    path = folder.root / bucket / key
    if not key:
        body = folder.listing(bucket, parse_qs(url.query).get("prefix", [""])[0])
        client.sendall(_head("200 OK", len(body), "application/xml") + (b"" if method == "HEAD" else body))
        return
    if not path.is_file():
        client.sendall(_head("404 Not Found", 0, "application/xml"))
        return
    size = path.stat().st_size
    start, end, status, more = 0, size, "200 OK", ""
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        status, more = "206 Partial Content", f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
    more += f"ETag: {folder.etag(path)}\r\nLast-Modified: {_DATE}\r\nAccept-Ranges: bytes\r\n"
    client.sendall(_head(status, end - start, "binary/octet-stream", more))
    if method == "GET":
        with path.open("rb") as file:
            while start < end:
                start += os.sendfile(client.fileno(), file.fileno(), start, end - start)


def _head(status: str, n_bytes: int, kind: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {n_bytes}\r\n{more}\r\n".encode()


def _serve(folder: Folder, client: socket.socket) -> None:
    with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while line := stream.readline():
            method, target, _ = line.decode("latin-1").split(" ")
            wanted, is_last = "", False
            while (header := stream.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode("latin-1").partition(":")
                wanted = value.strip() if name.lower() == "range" else wanted
                is_last |= name.lower() == "connection" and value.strip().lower() == "close"
            answer(folder, client, method, target, wanted)
            if is_last:
                return


def main() -> None:
    folder = Folder(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PART_BYTES)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"Running on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(folder, client), daemon=True).start()


if __name__ == "__main__":
    main()
