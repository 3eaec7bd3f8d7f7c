# SPDX-License-Identifier: Apache-2.0
"""InvokeEndpointAsync: inputs and outputs in S3, or in a folder that stands for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from tests.buckets import Bucket
from tests.sagemaker.emulators import QUICK, Emulator, container, emulator, refused
from tests.servers import eventually


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Emulator]:
    flags = ("--async-folder", str(folder), "--async-at-once", "1")
    with emulator(*container(), *QUICK, *flags) as process:
        yield process


def put(folder: Path, content: str, name: str = "input.json") -> str:
    (folder / "bucket").mkdir(exist_ok=True)
    (folder / "bucket" / name).write_text(content)
    return f"s3://bucket/{name}"


def call(local: Emulator, **members: Any) -> dict[str, Any]:
    answer: dict[str, Any] = local.runtime.invoke_endpoint_async(EndpointName="model", **members)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    return answer


def written(url: str) -> str:
    path = Path(urlsplit(url).path)
    eventually(path.exists)
    return path.read_text()


def test_the_output_is_where_the_answer_says(local: Emulator, folder: Path) -> None:
    where = put(folder, '{"do": "fail", "with": {"status": 200, "text": "done"}}')
    answer = call(local, InputLocation=where, ContentType="application/json", InferenceId="mine")
    assert answer["InferenceId"] == "mine"
    assert written(answer["OutputLocation"]) == "done"


def test_the_container_gets_the_headers_of_the_call(local: Emulator, folder: Path) -> None:
    answer = call(local, InputLocation=put(folder, "{}"), ContentType="text/csv", Accept="a/b", CustomAttributes="c")
    headers = {name.lower(): value for name, value in json.loads(written(answer["OutputLocation"]))["headers"]}
    assert (headers["content-type"], headers["accept"], headers["x-amzn-sagemaker-custom-attributes"]) == (
        "text/csv", "a/b", "c"
    )  # fmt: skip
    assert "x-amzn-sagemaker-inputlocation" not in headers


def test_an_error_of_the_container_is_where_the_answer_says(local: Emulator, folder: Path) -> None:
    answer = call(local, InputLocation=put(folder, '{"do": "fail", "with": {"status": 400, "text": "no"}}'))
    assert 'Received client error (400) from primary with message "no"' in written(answer["FailureLocation"])
    assert not Path(urlsplit(answer["OutputLocation"]).path).exists()


def test_an_input_that_is_not_there_is_a_failure(local: Emulator) -> None:
    answer = call(local, InputLocation="s3://bucket/nothing", InferenceId="vain")
    told = written(answer["FailureLocation"])
    assert told.startswith("InputLocation: there is no object s3://bucket/nothing: no file /")
    local.wait_for_line(f"asynchronous request vain has failed: {told}$")


@pytest.mark.parametrize(
    ("member", "seconds", "told"),
    [
        ("InvocationTimeoutSeconds", 3601, "Value '3601' at 'invocationTimeoutSeconds' failed to satisfy constraint"),
        ("RequestTTLSeconds", 21601, "Value '21601' at 'requestTTLSeconds' failed to satisfy constraint"),
    ],
)
def test_a_time_out_of_its_bounds_is_refused_and_told(local: Emulator, member: str, seconds: int, told: str) -> None:
    with refused("ValidationError") as found:
        call(local, InputLocation="s3://bucket/key", **{member: seconds})
    assert told in found["Error"]["Message"]
    assert told in local.violations("call.invalid")[-1]["message"]


def test_an_input_outside_of_the_folder_is_a_failure(local: Emulator) -> None:
    answer = call(local, InputLocation="file:///etc/hostname")
    assert "is not below" in written(answer["FailureLocation"])


def test_a_call_may_carry_its_input(local: Emulator) -> None:
    answer = call(local, Body=b'{"do": "fail", "with": {"status": 200, "text": "inline"}}')
    assert written(answer["OutputLocation"]) == "inline"


def test_an_output_can_be_named(local: Emulator, folder: Path) -> None:
    where = put(folder, '{"do": "fail", "with": {"status": 200, "text": "named"}}')
    answer = call(local, InputLocation=where, S3OutputPathExtension="today/", Filename="a.json")
    assert answer["OutputLocation"].endswith("/output/today/a.json")
    assert written(answer["OutputLocation"]) == "named"


@pytest.mark.parametrize(
    ("members", "part"),
    [
        ({}, "exactly one of InputLocation and Body"),
        ({"InputLocation": "s3://bucket/a", "Body": b"{}"}, "exactly one of InputLocation and Body"),
        ({"Body": b"x" * 128_001}, "a body of 128001 bytes; 128000 are taken"),
    ],
)
def test_a_call_that_the_service_refuses_is_refused(local: Emulator, members: dict[str, Any], part: str) -> None:
    with refused("ValidationError") as found:
        call(local, **members)
    assert part in found["Error"]["Message"]


def test_a_request_has_the_time_that_it_names(local: Emulator, folder: Path) -> None:
    where = put(folder, '{"do": "sleep", "with": {"seconds": 3}}', "sleep.json")
    answer = call(local, InputLocation=where, InvocationTimeoutSeconds=1)
    assert "Your invocation timed out" in written(answer["FailureLocation"])


def test_an_input_of_more_than_a_gigabyte_is_a_failure_and_told(local: Emulator, folder: Path) -> None:
    where = put(folder, "", "large.json")
    with (folder / "bucket" / "large.json").open("r+b") as file:
        file.truncate((1 << 30) + 1)  # a hole, which takes no place
    told = "s3://bucket/large.json has 1073741825 bytes; 1073741824 are taken"
    answer = call(local, InputLocation=where)
    assert told in written(answer["FailureLocation"])
    assert local.violations("async.input")[-1]["message"] == told


def test_a_request_waits_for_a_container_that_is_ill(local: Emulator, folder: Path) -> None:
    local.invoke("be_ill", seconds=1)
    eventually(lambda: local.violations("ping.healthy"))
    answer = call(local, Body=b'{"do": "fail", "with": {"status": 200, "text": "well again"}}')
    assert written(answer["OutputLocation"]) == "well again"


def test_requests_wait_for_their_turn(local: Emulator, folder: Path) -> None:
    slow = call(local, InputLocation=put(folder, '{"do": "sleep", "with": {"seconds": 1}}', "slow.json"))
    quick = call(local, Body=b"{}")
    written(quick["OutputLocation"])
    assert Path(urlsplit(slow["OutputLocation"]).path).exists()


def test_an_endpoint_without_a_place_for_outputs_is_not_asynchronous() -> None:
    with emulator(*container(), *QUICK) as local, refused("ValidationError") as found:
        call(local, Body=b"{}")
    assert "--async-output or --async-folder" in found["Error"]["Message"]


def test_failures_are_in_the_bucket_of_the_outputs(folder: Path) -> None:
    flags = ("--async-folder", str(folder), "--async-output", "s3://outputs/")
    with emulator(*container(), *QUICK, *flags) as local:
        answer = call(local, InputLocation="s3://bucket/nothing")
        assert answer["OutputLocation"].startswith("s3://outputs/")
        assert answer["FailureLocation"].startswith("s3://outputs/failures/")
        failure = folder / answer["FailureLocation"].removeprefix("s3://")
        eventually(failure.exists)


def test_inputs_and_outputs_are_objects_of_s3(bucket: Bucket) -> None:
    url = bucket.environ["AWS_ENDPOINT_URL"]
    environ = {name: value for name, value in bucket.environ.items() if name != "AWS_ENDPOINT_URL"}
    flags = ("--async-output", "s3://bucket/answers", "--s3-endpoint-url", url)
    s3 = boto3.client("s3", endpoint_url=url)
    bucket.put("questions/1.json", '{"do": "fail", "with": {"status": 200, "text": "done"}}')
    with emulator(*container(), *QUICK, *flags, environ={**environ, "AWS_ENDPOINT_URL": ""}) as local:
        answer = call(local, InputLocation="s3://bucket/questions/1.json")
        where = urlsplit(answer["OutputLocation"])
        assert (where.scheme, where.netloc) == ("s3", "bucket")
        assert where.path.startswith("/answers/")
        eventually(lambda: bucket.times(where.path[1:]))
        found = s3.get_object(Bucket="bucket", Key=where.path[1:])
        assert (found["Body"].read(), found["ContentType"]) == (b"done", "application/json")
        missing = call(local, InputLocation="s3://bucket/questions/2.json")
        failure = urlsplit(missing["FailureLocation"]).path[1:]
        eventually(lambda: bucket.times(failure))
        assert b"there is no object" in s3.get_object(Bucket="bucket", Key=failure)["Body"].read()
