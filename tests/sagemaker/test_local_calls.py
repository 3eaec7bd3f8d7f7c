# SPDX-License-Identifier: Apache-2.0
"""The runtime API in front of a container that keeps the contract, called by boto3."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.limits import limit_s
from tests.sagemaker.emulators import QUICK, Emulator, container, emulator, refused


@pytest.fixture(scope="module")
def local() -> Iterator[Emulator]:
    with emulator(*container(), *QUICK, "-e", "OPTION_DTYPE=bf16", environ={"OPTION_TASK": "none"}) as process:
        yield process


def names_of(told: dict[str, list[list[str]]]) -> dict[str, str]:
    return {name.lower(): value for name, value in told["headers"]}


def test_an_answer_comes_back_with_its_type_and_the_variant(local: Emulator) -> None:
    answer = local.invoke("fail", status=200, text="well")
    assert answer["Body"].read() == b"well"
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "AllTraffic")


def test_only_headers_of_the_contract_reach_the_container(local: Emulator) -> None:
    members = {"ContentType": "text/csv", "Accept": "text/plain", "CustomAttributes": "a=b", "InferenceId": "id 1",
               "SessionId": "s-1", "TargetVariant": "AllTraffic", "EnableExplanations": "`true`"}  # fmt: skip
    assert names_of(local.told(**members)) == {
        "host": names_of(local.told())["host"],
        "content-type": "text/csv",
        "accept": "text/plain",
        "content-length": names_of(local.told())["content-length"],
        "x-amzn-sagemaker-custom-attributes": "a=b",
        "x-amzn-sagemaker-inference-id": "id 1",
        "x-amzn-sagemaker-session-id": "s-1",
        "x-amzn-sagemaker-forwarded-api": "InvokeEndpoint",
    }


def test_a_header_of_the_clients_own_is_stripped_and_told(local: Emulator) -> None:
    url = f"{local.url}/endpoints/model/invocations"
    answer = httpx.post(url, json={}, headers={"X-My-Trace": "1"}, trust_env=False, timeout=limit_s(10))
    assert "x-my-trace" not in names_of(answer.json())
    assert [each["message"] for each in local.violations("call.header")] == [
        "InvokeEndpoint: the container never sees 'x-my-trace'"
    ]


def test_custom_attributes_come_back(local: Emulator) -> None:
    answer = local.invoke("tell", back={"X-Amzn-SageMaker-Custom-Attributes": "c=d"})
    assert answer["CustomAttributes"] == "c=d"


@pytest.mark.parametrize(("status", "who"), [(400, "client"), (424, "client"), (500, "server"), (507, "server")])
def test_an_error_of_the_container_is_a_model_error(local: Emulator, status: int, who: str) -> None:
    with refused("ModelError") as found:
        local.invoke("fail", status=status, text="it is broken")
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert (found["OriginalStatusCode"], found["OriginalMessage"]) == (status, "it is broken")
    assert found["LogStreamArn"].endswith(":log-group:/aws/sagemaker/Endpoints/model")
    assert found["Error"]["Message"].startswith(
        f'Received {who} error ({status}) from primary with message "it is broken". See https://'
    )


def test_of_a_long_error_a_caller_sees_2048_characters(local: Emulator) -> None:
    with refused("ModelError") as found:
        local.invoke("fail", status=500, text="x" * 5000)
    assert found["OriginalMessage"] == "x" * 2048
    assert len(found["Error"]["Message"]) == 2048


def test_an_unknown_endpoint_is_a_validation_error(local: Emulator) -> None:
    with refused("ValidationError") as found:
        local.invoke(endpoint="nobody")
    assert found["Error"]["Message"] == "Endpoint nobody of account 000000000000 not found."
    local.wait_for_line("InvokeEndpoint is refused: there is no endpoint 'nobody'; there is: model$")
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("members", "part"),
    [
        (
            {"CustomAttributes": "x" * 1025},
            "at 'customAttributes' failed to satisfy constraint: Member must have length",
        ),
        ({"SessionId": "-bad-"}, "at 'sessionId' failed to satisfy constraint: Member must satisfy"),
        ({"InferenceId": "x" * 65}, "at 'inferenceId' failed"),
        ({"InferenceId": "grün"}, "at 'inferenceId' failed"),
        ({"TargetVariant": "blue"}, "Variant blue not found"),
        ({"TargetModel": "a.tar.gz"}, "is not a multi-model endpoint and does not support target model header"),
        ({"InferenceComponentName": "a"}, "does not have inference components. Please remove"),
    ],
)
def test_a_call_that_the_service_refuses_is_refused_and_told(
    local: Emulator, members: dict[str, str], part: str
) -> None:
    n_before = len(local.violations())
    with refused("ValidationError") as found:
        local.invoke(**members)
    assert part in found["Error"]["Message"]
    [told] = local.violations()[n_before:]
    assert (told["rule"], told["of"]) == ("call.invalid", "client")
    assert told["message"].startswith("InvokeEndpoint: ")
    assert part in told["message"]


def test_an_asynchronous_call_to_an_endpoint_that_is_none_of_that_kind_is_told(local: Emulator) -> None:
    with refused("ValidationError"):
        local.runtime.invoke_endpoint_async(EndpointName="model", InputLocation="s3://bucket/key")
    assert "is not an asynchronous endpoint" in local.violations("call.invalid")[-1]["message"]


def test_a_body_of_more_than_25_mib_is_413(local: Emulator) -> None:
    assert local.invoke(Body=b" " * (25 << 20))["ResponseMetadata"]["HTTPStatusCode"] == 200
    with refused("413") as found:
        local.invoke(Body=b" " * ((25 << 20) + 1))
    assert found["Error"]["Message"] == "HTTP content length exceeded 26214400 bytes."
    assert local.violations("call.body")[0]["of"] == "client"


def test_a_stream_comes_in_the_parts_of_the_container(local: Emulator) -> None:
    parts = ["one\n", "zwei ü\n", "three\n"]
    answer = local.stream({"do": "stream", "with": {"parts": parts, "every_s": 0.05}}, Accept="text/plain")
    assert answer["ContentType"] == "application/jsonlines"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert [event["PayloadPart"]["Bytes"].decode() for event in answer["Body"]] == parts


def test_a_stream_asks_the_container_under_its_own_names(local: Emulator) -> None:
    answer = local.stream({}, Accept="text/plain", ContentType="application/json")
    told = names_of(json.loads(b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"])))
    assert told["accept"] == "text/plain"
    assert told["x-amzn-sagemaker-forwarded-api"] == "InvokeEndpointWithResponseStream"
    assert "x-amzn-sagemaker-accept" not in told


def test_an_error_in_place_of_a_stream_is_a_model_error(local: Emulator) -> None:
    with refused("ModelError") as found:
        local.stream({"do": "fail", "with": {"status": 400, "text": "no"}})
    assert found["OriginalStatusCode"] == 400


def test_a_session_cannot_be_opened_by_a_stream(local: Emulator) -> None:
    with refused("ValidationError") as found:
        local.stream({}, SessionId="NEW_SESSION")
    assert "Create it by InvokeEndpoint" in found["Error"]["Message"]


def test_the_container_has_the_environment_of_its_definition_and_no_more(local: Emulator) -> None:
    told = local.told()["environ"]
    assert told["OPTION_DTYPE"] == "bf16"
    assert "OPTION_TASK" not in told
    assert told["SAGEMAKER_BIND_TO_PORT"] == told["PORT"]


def test_endpoints_are_listed(local: Emulator) -> None:
    [endpoint] = local.get("/endpoints")["Endpoints"]
    assert (endpoint["EndpointName"], endpoint["EndpointStatus"]) == ("model", "InService")
    [copy] = endpoint["copies"]
    assert copy["pid"] == local.told()["pid"]
    assert copy["state"] == "Healthy"


def test_what_a_container_prints_is_shown_behind_its_name(local: Emulator) -> None:
    assert local.wait_for_line(r"^model/0 \| container on port \d+$")
