# SPDX-License-Identifier: Apache-2.0
"""The one table from errors to HTTP, and the body every error has."""

from __future__ import annotations

import json

import pytest

from lmi.api import LmiError, ProblemsError, RequestError, errors
from lmi.serving.errors import body_of, headers_of, lmi_status_of, openai_body_of, status_of, tgi_body_of

STATUS = {
    "RequestError": 400,
    "UnsupportedError": 400,
    "RefusedError": 400,
    "NotFoundError": 404,
    "ExistsError": 409,
    "TooLargeError": 413,
    "OverloadedError": 429,
    "NotReadyError": 503,
    "DeadlineError": 504,
    "OutOfMemoryError": 507,
}
KINDS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LmiError)]


def make(kind: type[LmiError]) -> LmiError:
    details = ((), "the hint") if issubclass(kind, ProblemsError) else ("the hint",)
    return kind("some.code", "what happened", *details)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_its_status_and_all_others_are_500(kind: type[LmiError]) -> None:
    assert status_of(make(kind)) == STATUS.get(kind.__name__, 500)


LMI_STATUS = {
    "NotFoundError": 404,
    "ExistsError": 409,
    "TooLargeError": 413,
    "OverloadedError": 503,
    "NotReadyError": 503,
    "OutOfMemoryError": 507,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_its_status_in_lmi_and_all_others_are_424(kind: type[LmiError]) -> None:
    assert lmi_status_of(make(kind)) == LMI_STATUS.get(kind.__name__, 424)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFoundError("adapter.unknown", "there is none"), 503),
        (RequestError("request.no-model", "several models are served"), 400),
        (RequestError("request.function-override", "a header names a function"), 400),
        (errors.EngineDeadError("server.error", "KeyError: 7"), 500),
    ],
)
def test_lmi_has_had_a_status_of_its_own_for_some_failures(error: LmiError, status: int) -> None:
    assert lmi_status_of(error) == status


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RequestError("request.bad", "no number"), "validation"),
        (errors.OverloadedError("queue.full", "7 requests wait"), "overloaded"),
        (errors.NotReadyError("model.loading", "it loads"), "overloaded"),
        (errors.EngineDeadError("engine.died", "it died"), "generation"),
    ],
)
def test_clients_of_tgi_are_told_the_kind_of_a_failure_and_its_text(error: LmiError, kind: str) -> None:
    body = json.loads(tgi_body_of(error, 400))
    assert (body["error"], body["error_type"], body["code"]) == (str(error), kind, 400)


def test_an_error_of_a_plugins_own_kind_has_the_status_of_the_kind_it_extends() -> None:
    class BadPictureError(RequestError):
        pass

    assert status_of(BadPictureError("acme.picture", "no picture")) == 400


def test_the_body_has_status_slug_and_the_whole_text() -> None:
    body = json.loads(body_of(RequestError("request.bad", "temperature='é\"' is no number", "Send a number")))
    assert body == {
        "code": 400,
        "error": "request.bad",
        "message": "request.bad: temperature='é\"' is no number. Send a number.",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_may_work_later_says_when_to_try_again(kind: type[LmiError]) -> None:
    names = [name for name, _ in headers_of(make(kind))]
    assert names == ([b"retry-after"] if kind.__name__ in ("OverloadedError", "NotReadyError") else [])


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (errors.RequestError("request.too-long", "x"), "invalid_request_error", None, "context_length_exceeded"),
        (errors.NotFoundError("model.not-found", "x"), "invalid_request_error", "model", "model_not_found"),
        (errors.OverloadedError("queue.full", "x"), "requests", None, "rate_limit_exceeded"),
        (errors.OverloadedError("queue.too-long", "x"), "requests", None, "rate_limit_exceeded"),
        (errors.RequestError("request.invalid", "x"), "invalid_request_error", None, "request.invalid"),
        (errors.EngineDeadError("engine.died", "x"), "server_error", None, "engine.died"),
    ],
)
def test_openais_clients_find_the_codes_that_they_act_on(
    error: LmiError, kind: str, param: str | None, code: str
) -> None:
    found = json.loads(openai_body_of(error, status_of(error)))["error"]
    assert found == {"message": str(error), "type": kind, "param": param, "code": code}
    assert found["message"].startswith(error.code)
