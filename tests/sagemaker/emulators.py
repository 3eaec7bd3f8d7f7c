# SPDX-License-Identifier: Apache-2.0
"""``lmi sagemaker-local`` as a process, and boto3 against it."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.limits import limit_s
from tests.servers import ServerProcess

CONTAINER = Path(__file__).with_name("container.py")
QUICK = ("--time", "startup-ping-every=0.05", "--time", "ping-every=0.1")


def client_of(url: str) -> Any:
    """boto3's client of the runtime; nothing but the URL says that this is not AWS."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=limit_s(60), proxies={})
    return boto3.client(
        "sagemaker-runtime", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x",
        aws_secret_access_key="y", config=config,
    )  # fmt: skip


class Emulator(ServerProcess):
    """One that runs."""

    def __init__(self, *args: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        super().__init__(*args, environ=environ, cwd=cwd, command="sagemaker-local")
        self._runtime: Any = None
        self._streams: list[Any] = []

    @property
    def runtime(self) -> Any:
        if self._runtime is None:
            self._runtime = client_of(self.url)
        return self._runtime

    def kill(self) -> None:
        super().kill()
        for stream in self._streams:
            stream.close()
        if self._runtime is not None:
            self._runtime.close()

    def in_service(self, name: str = "model") -> Emulator:
        self.wait_for_line(rf"endpoint {name} is InService")
        return self

    def invoke(self, do: str = "tell", endpoint: str = "model", **more: Any) -> Any:
        """A call that tells the container of the tests what to do; other members begin with a capital."""
        members = {key: value for key, value in more.items() if key[0].isupper()}
        options = {key: value for key, value in more.items() if not key[0].isupper()}
        body = json.dumps({"do": do, "with": options})
        return self.runtime.invoke_endpoint(EndpointName=endpoint, **{"Body": body, **members})

    def told(self, **more: Any) -> dict[str, Any]:
        """What the container tells of a call."""
        answer: dict[str, Any] = json.loads(self.invoke(**more)["Body"].read())
        return answer

    def stream(self, body: Any, **members: Any) -> Any:
        content = body if isinstance(body, (bytes, str)) else json.dumps(body)
        answer = self.runtime.invoke_endpoint_with_response_stream(EndpointName="model", Body=content, **members)
        self._streams.append(answer["Body"])
        return answer

    def get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(self.url + path, trust_env=False, timeout=limit_s(10)).json()
        return answer

    def violations(self, rule: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/violations")["violations"]
        return [each for each in found if rule in ("", each["rule"])]


@contextlib.contextmanager
def emulator(*args: str, is_ready: bool = True, **more: Any) -> Iterator[Emulator]:
    """One for the length of a block; killed at its end if it still runs."""
    process = Emulator(*args, **more)
    try:
        yield process.in_service() if is_ready else process
    finally:
        if process.process.poll() is None:
            process.terminate()  # so that its containers end, too
            with contextlib.suppress(Exception):
                process.wait_for_end(10)
        process.kill()


def container(*flags: str) -> tuple[str, str]:
    """The words that make ``lmi sagemaker-local`` start the container of the tests."""
    return "--command", shlex.join([sys.executable, str(CONTAINER), *flags])


@contextlib.contextmanager
def refused(kind: str) -> Iterator[dict[str, Any]]:
    """The block makes a call that is answered with this exception; afterwards its response is in the dictionary."""
    found: dict[str, Any] = {}
    with pytest.raises(ClientError) as raised:
        yield found
    found.update(raised.value.response)
    assert found["Error"]["Code"] == kind, found
