# SPDX-License-Identifier: Apache-2.0
"""Containers that break the contract, and what clients and the list of violations see of it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import EventStreamError

from tests.sagemaker.emulators import QUICK, Emulator, container, emulator, refused
from tests.servers import eventually, in_threads

SHORT = ("--time", "invocation=1", "--time", "stream=1.5", "--time", "stop=0.5", "--time", "ping=0.5")


@pytest.fixture(scope="module")
def local() -> Iterator[Emulator]:
    """In front of a container that does what it is told."""
    with emulator(*container(), *QUICK, *SHORT) as process:
        yield process


def last(local: Emulator, rule: str) -> str:
    message: str = local.violations(rule)[-1]["message"]
    return message


def test_an_answer_after_the_limit_is_a_model_error(local: Emulator) -> None:
    with refused("ModelError") as found:
        local.invoke("sleep", seconds=3)
    assert found["OriginalStatusCode"] == 0
    assert "Your invocation timed out while waiting for a response from container primary" in found["OriginalMessage"]
    assert last(local, "invocation.time") == "model/0: InvokeEndpoint: no whole answer in 1 s"


def test_a_stream_after_the_limit_ends_with_an_exception(local: Emulator) -> None:
    answer = local.stream({"do": "stream", "with": {"parts": ["a"] * 40, "every_s": 0.1}})
    parts = []
    with pytest.raises(EventStreamError) as raised:
        parts.extend(event["PayloadPart"]["Bytes"] for event in answer["Body"])
    assert raised.value.response["Error"]["Code"] == "ModelStreamError"
    assert local.violations("stream.time")


def test_a_stream_whose_connection_is_cut_ends_with_an_exception(local: Emulator) -> None:
    answer = local.stream({"do": "stream", "with": {"parts": ["a", "b"], "every_s": 0.05, "end": "cut"}})
    events = iter(answer["Body"])
    assert [next(events)["PayloadPart"]["Bytes"] for _ in range(2)] == [b"a", b"b"]
    with pytest.raises(EventStreamError, match="ModelStreamError") as raised:
        next(events)
    assert raised.value.response["Error"]["Message"].startswith("The connection to the model was closed: ")
    assert last(local, "answer.cut").startswith("model/0: after 2 parts: the server closed the connection")


@pytest.mark.parametrize(
    ("back", "rule", "message"),
    [
        ({"X-Tokens": "3"}, "response.header", "'x-tokens' never reaches a client"),
        (
            {"X-Amzn-SageMaker-Custom-Attributes": "x" * 1025},
            "response.custom-attributes",
            "they have 1025 characters of 1024",
        ),
        (
            {"X-Amzn-SageMaker-Custom-Attributes": "ü"},
            "response.custom-attributes",
            "they have characters that are not ASCII",
        ),
        ({"X-Amzn-SageMaker-Closed-Session-Id": "a b"}, "sessions.header", "Closed-Session-Id is 'a b'"),
    ],
)
def test_a_response_header_that_breaks_a_rule_is_told(
    local: Emulator, back: dict[str, str], rule: str, message: str
) -> None:
    local.invoke("tell", back=back)
    assert f"model/0: {message}" in [each["message"] for each in local.violations(rule)]


def test_a_header_of_a_session_that_a_stream_cannot_pass_on_is_told(local: Emulator) -> None:
    back = {"X-Amzn-SageMaker-Closed-Session-Id": "s-1"}
    answer = local.stream({"do": "stream", "with": {"parts": ["a"], "back": back}})
    assert [event["PayloadPart"]["Bytes"] for event in answer["Body"]] == [b"a"]
    assert last(local, "response.header").startswith("model/0: 'x-amzn-sagemaker-closed-session-id' never reaches")


def test_an_answer_of_more_than_25_mib_is_lost(local: Emulator) -> None:
    assert len(local.invoke("grow", n_bytes=25 << 20)["Body"].read()) == 25 << 20
    with refused("ModelError"):
        local.invoke("grow", n_bytes=(25 << 20) + 1)
    assert last(local, "response.body") == "model/0: an answer of more than 26214400 bytes"


@pytest.mark.parametrize(
    ("kind", "rule", "part"),
    [
        ("bare", "sessions.header", "New-Session-Id is 'session-"),
        ("over", "sessions.header", "Expires=2020-01-02T03:04:05Z', which is over"),
        ("none", "sessions.missing", "answered 200 without"),
    ],
)
def test_a_session_that_is_not_opened_as_it_should_be_is_told(local: Emulator, kind: str, rule: str, part: str) -> None:
    local.invoke(SessionId="NEW_SESSION", Body=kind)
    assert part in last(local, rule)


@pytest.fixture
def own() -> Iterator[Emulator]:
    with emulator(*container(), *QUICK, *SHORT) as process:
        yield process


def test_a_ping_that_comes_late_is_told(own: Emulator) -> None:
    own.invoke("ping_slowly", seconds=0.8)
    eventually(lambda: own.violations("ping.time"))
    eventually(lambda: own.violations("ping.healthy"))
    assert last(own, "ping.time") == "model/0: GET /ping: no answer in 0.5 s"


def test_a_session_that_is_refused_is_no_violation(own: Emulator) -> None:
    with refused("ModelError"):
        own.invoke(SessionId="NEW_SESSION", Body="refuse")
    assert not own.violations()


def test_a_container_that_is_ill_gets_no_requests_until_it_is_well(own: Emulator) -> None:
    own.invoke("be_ill", seconds=2)
    eventually(lambda: own.violations("ping.healthy"))
    assert last(own, "ping.healthy") == "model/0: GET /ping: status 503"
    with refused("ServiceUnavailable") as found:
        own.invoke()
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 503
    eventually(lambda: own.get("/endpoints")["Endpoints"][0]["copies"][0]["state"] == "Healthy")
    own.wait_for_line("model/0 is healthy again$")
    own.told()


def test_a_container_that_ends_while_it_streams_is_started_again(own: Emulator) -> None:
    pid = own.told()["pid"]
    answer = own.stream({"do": "stream", "with": {"parts": ["a"], "every_s": 0.05, "end": "die"}})
    with pytest.raises(EventStreamError, match="ModelStreamError"):
        list(answer["Body"])
    eventually(lambda: own.violations("process.ended"))
    assert last(own, "process.ended") == "model/0: it ended with exit code 3; it is started again"
    eventually(lambda: own.get("/endpoints")["Endpoints"][0]["copies"][0]["state"] == "Healthy")
    assert own.told()["pid"] != pid


def test_a_container_that_dies_of_a_request_is_a_model_error(own: Emulator) -> None:
    with refused("ModelError") as found:
        own.invoke("die")
    assert found["OriginalStatusCode"] == 0
    assert "could not load the entire response body" in found["Error"]["Message"]


def test_a_connection_that_is_not_accepted_in_time_is_told() -> None:
    with emulator(*container("--one-at-a-time"), *QUICK, "--time", "ping-every=60") as local:
        calls = [lambda: local.invoke("sleep", seconds=1)] * 6

        def call() -> str:
            try:
                return str(calls[0]()["Body"].read())
            except local.runtime.exceptions.ClientError as error:
                return str(error.response["Error"]["Code"])

        answers = in_threads([call] * 6)
        assert "InternalFailure" in answers
        assert last(local, "tcp.accept") == "model/0: POST /invocations: not accepted in 250 ms"


def test_calls_before_the_first_healthy_ping_find_no_endpoint() -> None:
    with emulator(*container("--healthy-after-s", "3"), *QUICK, is_ready=False) as local:
        assert local.url
        assert local.get("/endpoints")["Endpoints"][0]["EndpointStatus"] == "Creating"
        with refused("ValidationError") as found:
            local.invoke()
        assert found["Error"]["Message"] == "Endpoint model of account 000000000000 not found."
        local.wait_for_line("InvokeEndpoint is refused: endpoint model is Creating, not InService$")
        local.in_service().told()
        assert not local.violations()


def test_a_container_that_ends_before_it_is_healthy_ends_the_run() -> None:
    with emulator(*container("--ends-with", "7"), *QUICK, is_ready=False) as local:
        assert local.wait_for_end() == 1
        assert "model/0 | this model is broken" in local.lines
        assert "start.ended  model     container  1      model/0: it ended with exit code 7" in local.lines


def test_a_container_that_is_not_healthy_in_time_ends_the_run() -> None:
    flags = ("--healthy-after-s", "900")
    with emulator(*container(*flags), *QUICK, "--startup-timeout", "0.5", is_ready=False) as local:
        assert local.wait_for_end() == 1
        local.wait_for_line(r"violation start\.time: .*not healthy after 0\.5 s; the last GET /ping: status 503")


def test_a_program_that_is_not_there_ends_the_run() -> None:
    with emulator("--command", "no-such-program serve", is_ready=False) as local:
        assert local.wait_for_end() == 1
        local.wait_for_line(r"model/0 failed: no-such-program could not be started: No such file or directory")


def test_a_container_that_ignores_sigterm_is_killed_and_told() -> None:
    with emulator(*container("--ignores-sigterm"), *QUICK, "--time", "stop=0.5", "--strict") as local:
        began_s = time.monotonic()
        local.terminate()
        assert local.wait_for_end() == 1  # --strict
        assert time.monotonic() - began_s >= 0.5
        assert "stop.time  model     container  1      model/0: it ran for 0.5 s after SIGTERM and got SIGKILL" in (
            local.lines
        )


def test_a_run_without_violations_says_so_and_ends_with_0() -> None:
    with emulator(*container(), *QUICK, "--strict") as local:
        local.told()
        local.terminate()
        assert local.wait_for_end() == 0
        assert local.lines[-1] == "no violations"


def test_an_answer_that_runs_while_the_container_drains_comes_back() -> None:
    with emulator(*container(), *QUICK) as local:

        def stop() -> None:
            eventually(lambda: "asks" in told)
            local.terminate()

        def ask() -> bytes:
            told.add("asks")
            content: bytes = local.invoke("sleep", seconds=1)["Body"].read()
            return content

        told: set[str] = set()
        # The container of the tests ends its process only when no request runs.
        _, answer = in_threads([stop, ask])
        assert answer == b"awake"
        assert local.wait_for_end() == 0


def test_a_command_may_speak_of_its_own_process_and_of_its_port() -> None:
    script = f"echo $$ is on ${{PORT}} of $PORT_RANGE; exec {container()[1]}"
    with emulator("--command", shlex.join(["sh", "-c", script]), *QUICK) as local:
        copy = local.get("/endpoints")["Endpoints"][0]["copies"][0]
        assert f"model/0 | {copy['pid']} is on {urlsplit(copy['url']).port} of" in local.output


def test_an_environment_that_no_endpoint_can_have_is_told() -> None:
    with emulator(*container(), *QUICK, "-e", f"LONG={'x' * 1025}") as local:
        assert last(local, "environment.size") == "LONG has 1025 bytes; 1024 are taken"


def test_violations_are_listed_with_rule_source_and_whose_duty_it_was(local: Emulator) -> None:
    local.invoke("tell", back={"X-Tokens": "3"})
    found = local.violations("response.header")[0]
    assert found["of"] == "container"
    assert found["source"] == "service model of sagemaker-runtime"
    assert found["says"].startswith("Of the response's headers clients get")
    assert json.dumps(found["at"])[-7:-1] == "+00:00"
    local.wait_for_line(r"WARNING violation response\.header: endpoint model: model/0: 'x-tokens' never reaches")
