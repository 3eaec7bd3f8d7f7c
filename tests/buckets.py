# SPDX-License-Identifier: Apache-2.0
"""An S3 server that speaks the real protocol: moto's, as a process of its own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
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

    def put(self, key: str, text: str) -> None:
        self._client.put_object(Bucket=NAME, Key=key, Body=text.encode())

    def empty(self) -> None:
        for found in self._client.list_objects_v2(Bucket=NAME).get("Contents", []):
            self._client.delete_object(Bucket=NAME, Key=found["Key"])


@contextlib.contextmanager
def running_bucket() -> Iterator[Bucket]:
    """A bucket on a server that ends with the block."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"Running on (http://\S+)", line):
                yield Bucket(match[1])
                return
        raise AssertionError("the S3 server did not start")
    finally:
        process.kill()
        process.communicate()
