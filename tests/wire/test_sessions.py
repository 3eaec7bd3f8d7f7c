# SPDX-License-Identifier: Apache-2.0
"""Stateful sessions over HTTP: opened, used, closed, and the conversations that they keep."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lmi.sagemaker_limits import NEW_SESSION_CHARS, NEW_SESSION_PATTERN
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo

ID, NEW_ID, CLOSED_ID = (f"X-Amzn-SageMaker-{name}" for name in ("Session-Id", "New-Session-Id", "Closed-Session-Id"))
BODY = {"inputs": "abc", "parameters": {"max_new_tokens": 3}}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo() as process:
        yield process


def sent(server: ServerProcess, body: Any, session: str = "", path: str = "/invocations") -> httpx.Response:
    return server.post(body, path, headers={ID: session} if session else {})


def opened(server: ServerProcess, body: Any = None, path: str = "/invocations") -> str:
    answer = sent(server, body or {"requestType": "NEW_SESSION"}, "NEW_SESSION", path)
    assert answer.status_code == 200, answer.text
    return str(answer.headers[NEW_ID]).partition(";")[0]


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert NEW_ID not in answer.headers and CLOSED_ID not in answer.headers


def test_a_session_is_opened_with_its_id_and_its_end(server):
    answer = sent(server, {"requestType": "NEW_SESSION"}, "NEW_SESSION")
    header = answer.headers[NEW_ID]
    assert re.fullmatch(NEW_SESSION_PATTERN, header) and len(header) <= NEW_SESSION_CHARS
    end = datetime.datetime.fromisoformat(header.partition("Expires=")[2].replace("Z", "+00:00"))
    left_s = (end - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    assert 1100 < left_s <= 1200


@pytest.mark.parametrize("body", [BODY, {**BODY, "stream": True}], ids=["whole", "stream"])
def test_a_request_that_opens_a_session_is_answered_in_it(server, body):
    answer = sent(server, body, "NEW_SESSION")
    assert json.loads(answer.text.splitlines()[-1])["generated_text"] == "abc"
    session = answer.headers[NEW_ID].partition(";")[0]
    again = sent(server, body, session)
    assert (again.status_code, NEW_ID in again.headers) == (200, False)


def test_the_type_of_a_request_is_enough_to_open_one(server):
    assert NEW_ID in sent(server, {"requestType": "NEW_SESSION"}).headers


def test_a_closed_session_is_told_and_gone(server):
    session = opened(server)
    closed = sent(server, {"requestType": "CLOSE"}, session)
    assert (closed.status_code, closed.headers[CLOSED_ID]) == (200, session)
    refused(sent(server, BODY, session), 404, "session.unknown")
    refused(sent(server, {"requestType": "CLOSE"}, session), 404, "session.unknown")


@pytest.mark.parametrize("session", ["nobody", "../../etc", "a" * 300])
@pytest.mark.parametrize("body", [BODY, {"requestType": "CLOSE"}], ids=["use", "close"])
def test_an_unknown_session_is_refused_and_not_repeated(server, session, body):
    answer = sent(server, body, session)
    refused(answer, 404, "session.unknown")
    assert session not in answer.text


def test_a_session_cannot_be_closed_without_its_id(server):
    refused(sent(server, {"requestType": "CLOSE"}), 400, "request.invalid")
    refused(sent(server, {"requestType": "CLOSE"}, "NEW_SESSION"), 400, "request.invalid")


def test_a_body_that_has_the_word_among_others_is_the_models(server):
    refused(sent(server, {"requestType": "NEW_SESSION", "inputs": "abc"}), 400, "request.invalid")
    refused(sent(server, {"requestType": "OTHER"}), 400, "request.invalid")


def test_a_session_ends_when_nobody_used_it():
    with serve_echo(sessions_expiration=0.5) as brief:
        session = opened(brief)
        assert sent(brief, BODY, session).status_code == 200
        time.sleep(0.7)
        refused(sent(brief, BODY, session), 404, "session.unknown")
        refused(sent(brief, {"requestType": "CLOSE"}, session), 404, "session.unknown")


def test_a_model_without_sessions_says_so():
    with serve_echo(enable_stateful_sessions="false") as plain:
        refused(sent(plain, {"requestType": "NEW_SESSION"}, "NEW_SESSION"), 400, "request.unsupported")
        assert plain.generate("abc", max_new_tokens=1)["generated_text"] == "a"


# ------------------------------------------------------------------------------------------------------- conversations


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that writes again what all messages say."""
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text("{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}")
    with serve_echo(chat_template=path, max_model_len=2000, sessions_memory_mb=1) as process:
        yield process


def said(server: ServerProcess, text: str, session: str, path: str = "/invocations", **more: Any) -> httpx.Response:
    body = {
        "messages": [{"role": "user", "content": text}],
        "keep_history": True,
        "max_tokens": 500,
        "stop": ";",
        **more,
    }
    return sent(server, body, session, path)


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_session_keeps_what_was_said_and_answered(talking, is_stream, path):
    first = said(talking, "one", "NEW_SESSION", path, stream=is_stream)
    assert first.status_code == 200, first.text
    session = first.headers[NEW_ID].partition(";")[0]
    assert said(talking, "two", session, stream=is_stream).status_code == 200
    last = said(talking, "three", session, stop=[], max_tokens=40)
    assert last.json()["choices"][0]["message"]["content"].startswith("u:one;a:u:one;u:two;a:u:one;u:three;")


def test_without_the_wish_a_session_keeps_nothing(talking):
    session = said(talking, "one", "NEW_SESSION", keep_history=False).headers[NEW_ID].partition(";")[0]
    answer = said(talking, "two", session, stop=[], max_tokens=6)
    assert answer.json()["choices"][0]["message"]["content"] == "u:two;"


def test_a_history_needs_a_session_and_one_answer(talking):
    refused(said(talking, "one", ""), 400, "request.invalid")
    refused(said(talking, "one", opened(talking), n=2), 400, "request.invalid")
