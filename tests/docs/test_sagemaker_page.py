# SPDX-License-Identifier: Apache-2.0
"""The commands and numbers of docs/sagemaker.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from lmi.cli.serve import serve as serve_command
from lmi.config.hosted import from_container
from lmi.container import Container
from lmi.sagemaker_limits import BODY_BYTES, CONNECT_S, PING_S
from lmi.serving.contents import records_of
from tests.docs.pages import Page, code
from tests.limits import limit_s
from tests.servers import serve

PAGE = Page("sagemaker.md")
ECHO = ("-o", "rolling_batch=echo")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def said_by(command: str, url: str) -> str:
    command = command.replace("localhost:8080", url)
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=limit_s(30)).stdout


@needs_curl
def test_the_platform_is_told_what_the_page_says() -> None:
    [listing] = PAGE.listings("Batch transform", "console")
    command, answer = listing.splitlines()
    with serve(*ECHO, environ={"SAGEMAKER_BATCH": "true"}) as server:
        assert said_by(command.removeprefix("$ "), server.url) == answer


@needs_curl
def test_records_are_answered_as_the_page_says() -> None:
    [script] = PAGE.listings("Batch transform", "sh")
    start, *calls = script.splitlines()
    variables = dict(re.findall(r"(SAGEMAKER_\w+)=(\w+)", start))
    assert start.endswith(f"lmi serve {' '.join(ECHO)} &")
    with serve(*ECHO, environ=variables) as server:
        found = "".join(said_by(call, server.url) for call in calls)
    [answer] = PAGE.listings("Batch transform")[-1:]
    assert [json.loads(line) for line in found.splitlines()] == [json.loads(line) for line in answer.splitlines()]


@pytest.mark.parametrize("row", PAGE.rows("Batch transform"), ids=lambda row: row[0])
def test_the_content_types_of_records_are_those_of_the_page(row: list[str]) -> None:
    kind = code(row[0])[0]
    body = b'{"inputs": "a"}\n{"inputs": "b"}\n'
    assert len(records_of(body, kind, takes_several=True) or ()) == 2
    needs_several = "`MULTI_RECORD`" in row[0]
    assert (records_of(body, kind, takes_several=False) is None) is needs_several


def test_the_numbers_are_those_of_the_page() -> None:
    assert f"longer than {CONNECT_S * 1000:g} ms" in PAGE.text
    assert f"waits {PING_S:g} s for `/ping`" in PAGE.text
    [drain] = [each.default for each in serve_command.params if each.name == "drain_timeout"]
    assert f"gives running ones {drain:g} s" in PAGE.text
    assert f"`max_request_size` is {BODY_BYTES >> 20} MiB on SageMaker" in PAGE.text
    [line] = PAGE.listings("How large a body may be")
    name, value = line.strip().split("=")
    assert (name, int(value)) == ("SAGEMAKER_MAX_REQUEST_SIZE", 1 << 30)
    [limit] = from_container({"SAGEMAKER_BATCH": "true"})
    assert f"unset: {int(limit.value) >> 20} MiB" in PAGE.text


def test_every_variable_of_the_page_is_read() -> None:
    chosen = {
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "3",
        "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "2",
        "SAGEMAKER_SAFE_PORT_RANGE": "9000-9010",
    }
    assert all(f"`{name}" in PAGE.text for name in chosen)
    found = Container.of(chosen)
    assert (found.max_transforms, found.batch_strategy, found.max_payload_mb) == (3, "MULTI_RECORD", 2)
    assert found.safe_ports == (9000, 9010)
