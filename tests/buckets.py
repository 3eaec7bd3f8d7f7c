# SPDX-License-Identifier: Apache-2.0
"""An S3 server that speaks the real protocol: moto's, as a process of its own."""

from __future__ import annotations

import collections
import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
NAME = "bucket"


class Bucket:
    """One bucket, called ``bucket``.

    Args:
        endpoint: URL of the server.
    """

    def __init__(self, endpoint: str) -> None:
        self.environ = {"AWS_ENDPOINT_URL": endpoint, **CREDENTIALS}
        self._client: Any = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self._client.create_bucket(Bucket=NAME)

    def put(self, key: str, content: str | bytes, **options: str) -> None:
        """An object; ``options`` as boto3's ``put_object`` has them."""
        body = content.encode() if isinstance(content, str) else content
        self._client.put_object(Bucket=NAME, Key=key, Body=body, **options)

    def put_in_parts(self, key: str, parts: list[bytes]) -> None:
        """An object that was uploaded in parts, so its ETag is no MD5; all but the last have 5 MiB or more."""
        where = {"Bucket": NAME, "Key": key, "UploadId": ""}
        where["UploadId"] = self._client.create_multipart_upload(Bucket=NAME, Key=key)["UploadId"]
        done = []
        for number, part in enumerate(parts, 1):
            answer = self._client.upload_part(**where, PartNumber=number, Body=part)
            done.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})

    def get(self, key: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=NAME, Key=key)["Body"].read()
        return content

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=NAME, Key=key)

    def times(self, prefix: str) -> dict[str, Any]:
        """Key of each object -> when it was put."""
        found = self._client.list_objects_v2(Bucket=NAME, Prefix=prefix).get("Contents", [])
        return {each["Key"]: each["LastModified"] for each in found}

    def empty(self) -> None:
        for found in self._client.list_objects_v2(Bucket=NAME).get("Contents", []):
            self._client.delete_object(Bucket=NAME, Key=found["Key"])


@contextlib.contextmanager
def running_bucket() -> Iterator[Bucket]:
    """A bucket on a server that ends with the block."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := re.search(r"Running on (http://\S+)", line):
                # It writes a line a request, and stands still when nobody reads them.
                reader = threading.Thread(target=collections.deque, args=(process.stdout, 0))
                reader.start()
                try:
                    yield Bucket(match[1])
                finally:
                    process.kill()
                    reader.join()
                return
        raise AssertionError("the S3 server did not start")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def running_folder_store(root: Path) -> Iterator[str]:
    """URL of an S3 server for the folders in ``root``, which ends with the block; files may be sparse."""
    command = [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "object_store.py"), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()
