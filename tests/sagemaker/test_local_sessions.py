# SPDX-License-Identifier: Apache-2.0
"""Copies of a container, sessions that stay with one of them, and adapters that all of them have."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.sessions import Sessions
from tests.sagemaker.emulators import QUICK, Emulator, container, emulator, refused
from tests.servers import eventually, in_threads

ADAPTERS = ("--adapter", "french=s3://bucket/french", "--adapter", "legal=/models/legal")


@pytest.fixture(scope="module")
def local() -> Iterator[Emulator]:
    with emulator(*container(), *QUICK, "--copies", "2", *ADAPTERS) as process:
        yield process


def base(local: Emulator, **more: Any) -> dict[str, Any]:
    return local.told(InferenceComponentName="base", **more)


def opened(local: Emulator) -> str:
    header: str = local.invoke(SessionId="NEW_SESSION", InferenceComponentName="base")["NewSessionId"]
    assert header.endswith("; Expires=2126-01-02T03:04:05Z")
    return header.partition(";")[0]


def test_copies_share_the_requests(local: Emulator) -> None:
    def ask() -> None:
        local.invoke("sleep", seconds=0.5, InferenceComponentName="base")

    in_threads([ask, ask])
    n_copies = len(local.get("/endpoints")["Endpoints"][0]["copies"])
    assert n_copies == 2
    pids = {base(local)["pid"] for _ in range(2)} | {
        each["pid"] for each in local.get("/endpoints")["Endpoints"][0]["copies"]
    }
    assert len(pids) == 2


def test_while_a_copy_starts_again_the_other_one_answers() -> None:
    with emulator(*container(), *QUICK, "--copies", "2", "--time", "startup-ping-every=1") as own:
        with refused("ModelError"):
            own.invoke("die", SessionId="any")
        eventually(lambda: own.violations("process.ended"))
        assert len({own.told()["pid"] for _ in range(4)}) == 1
        eventually(lambda: {each["state"] for each in own.get("/endpoints")["Endpoints"][0]["copies"]} == {"Healthy"})


def test_a_session_stays_with_the_copy_that_opened_it(local: Emulator) -> None:
    sessions = [opened(local) for _ in range(4)]

    def pids(session: str) -> set[int]:
        return {base(local, SessionId=session)["pid"] for _ in range(4)}

    for session in sessions:
        assert {f"session-{pid}" for pid in pids(session)} == {session.rpartition("-")[0]}


def test_a_session_stays_with_its_copy_while_the_other_one_has_less_to_do(local: Emulator) -> None:
    session = opened(local)

    def ask(number: int) -> str:
        if number < 4:
            local.invoke("sleep", seconds=0.5, SessionId=session, InferenceComponentName="base")
        return f"session-{base(local, SessionId=session)['pid']}"

    found = in_threads([lambda number=number: ask(number) for number in range(8)])
    assert set(found) == {session.rpartition("-")[0]}


def test_a_closed_session_comes_back_under_its_own_name(local: Emulator) -> None:
    session = opened(local)
    answer = local.invoke("close", SessionId=session, InferenceComponentName="base")
    assert answer["ClosedSessionId"] == session
    assert not local.violations("sessions.header")


def test_a_session_that_is_over_stays_with_nobody() -> None:
    copy = cast(Container, object())
    sessions = Sessions()
    end = datetime.now(timezone.utc) - timedelta(seconds=1)
    assert sessions.opened(f"old; Expires={end:%Y-%m-%dT%H:%M:%SZ}", copy)
    assert sessions.opened("new; Expires=2126-01-02T03:04:05Z", copy)
    assert sessions.container_of("old") is None
    assert sessions.container_of("new") is copy
    sessions.closed("new")
    assert sessions.container_of("new") is None


@pytest.mark.parametrize("header", ["a", "a; Expires=tomorrow", "a b; Expires=2126-01-02T03:04:05Z",
                                    "a; Expires=2126-02-31T03:04:05Z", "a;Expires=2126-01-02T03:04:05Z"])  # fmt: skip
def test_a_header_that_is_not_the_service_models_opens_no_session(header: str) -> None:
    assert not Sessions().opened(header, cast(Container, object()))


# ------------------------------------------------------------------------------------------------------------- adapters


def test_every_copy_has_the_adapters_before_it_gets_requests(local: Emulator) -> None:
    for _ in range(4):
        assert base(local)["adapters"] == {"french": "s3://bucket/french", "legal": "/models/legal"}


def test_a_component_that_is_an_adapter_is_named_to_the_container(local: Emulator) -> None:
    def adapter(component: str) -> str | None:
        headers = local.told(InferenceComponentName=component)["headers"]
        return {name.lower(): value for name, value in headers}.get("x-amzn-sagemaker-adapter-identifier")

    assert [adapter(name) for name in ("french", "legal", "base")] == ["french", "legal", None]


def test_an_endpoint_with_components_wants_one_named(local: Emulator) -> None:
    with refused("ValidationError") as found:
        local.invoke()
    assert "Inference Component Name header is required" in found["Error"]["Message"]


def test_a_component_that_there_is_not_is_refused_with_those_that_there_are(local: Emulator) -> None:
    with refused("ValidationError") as found:
        local.invoke(InferenceComponentName="german")
    assert found["Error"]["Message"].endswith("There are: base, french, legal.")


def test_a_container_that_takes_no_adapters_is_told() -> None:
    with emulator(*container("--no-adapters"), *QUICK, "--adapter", "french=/f") as local:
        [found] = local.violations("adapters.register")
        assert found["message"] == "model/0: POST /adapters for 'french': status 404: no such route"
