# SPDX-License-Identifier: Apache-2.0
"""What ``lmi bench --endpoint`` sends to SageMaker's runtime, and what it hears from there."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmi.api.errors import LmiError
from lmi.bench.hearing import Hearing
from lmi.bench.levels import Asker
from lmi.bench.routes import EndpointRoute
from lmi.client import Answer, Target, target_of
from lmi.sagemaker_local import event_stream

LOCAL = target_of("http://localhost:8081")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a secret", "AWS_SESSION_TOKEN": "a token"}
LINES = b'{"token":{"id":1,"text":"a"}}\n{"token":{"id":2,"text":""},"generated_text":"a"}\n'


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test sets."""
    for name in (*KEYS, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


class Runtime(BaseHTTPRequestHandler):
    """Keeps what it is asked, and answers with a stream of two tokens."""

    seen: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        content = event_stream.part(LINES)
        self.send_response(200)
        self.send_header("content-type", event_stream.MEDIA_TYPE)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Be silent."""


@pytest.fixture
def runtime() -> Iterator[tuple[Target, list[tuple[str, dict[str, str], bytes]]]]:
    handler = type("Seen", (Runtime,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield target_of(f"http://127.0.0.1:{server.server_port}/prefix"), handler.seen  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def asked(target: Target, **headers: str) -> Hearing:
    async def ask() -> Hearing:
        route = EndpointRoute(target, "my-endpoint")
        asker = Asker(target=target, route=route, headers=headers, body=lambda prompt: {"inputs": prompt}, timeout_s=30)
        connection = asker.connection()
        heard = await asker.ask("ä b", connection)
        connection.close()
        return heard

    return asyncio.run(ask())


def signature_of(path: str, headers: dict[str, str], body: bytes) -> str:
    """Of a request as it came. Source: AWS IAM user guide, create a signed AWS API request."""
    scope, names = (
        headers["authorization"].partition(f"{word}=")[2].partition(",")[0] for word in ("Credential", "SignedHeaders")
    )
    _, date, region, service, _ = scope.split("/")
    signed = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    canonical = "\n".join(["POST", path, "", signed, names, hashlib.sha256(body).hexdigest()])
    text = "\n".join(
        ["AWS4-HMAC-SHA256", headers["x-amz-date"], f"{date}/{region}/{service}/aws4_request",
         hashlib.sha256(canonical.encode()).hexdigest()]
    )  # fmt: skip
    key = f"AWS4{KEYS['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in (date, region, service, "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def test_a_request_is_that_of_the_runtime_with_a_signature_of_what_was_sent(
    monkeypatch: pytest.MonkeyPatch, runtime: tuple[Target, list[Any]]
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    target, seen = runtime
    heard = asked(target, **{"x-amzn-sagemaker-inference-component": "french"})
    assert (heard.error, heard.n_tokens) == (None, 2)
    [(path, headers, body)] = seen
    assert (path, json.loads(body)) == ("/prefix/endpoints/my-endpoint/invocations-response-stream", {"inputs": "ä b"})
    assert headers["x-amz-security-token"] == "a token"
    told = headers["authorization"]
    assert told.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/us-east-1/sagemaker/aws4_request" in told
    for name in ("host", "x-amz-date", "content-type", "x-amzn-sagemaker-inference-component"):
        assert name in told.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert told.endswith(f"Signature={signature_of(path, headers, body)}")


def test_without_credentials_a_request_has_no_signature(runtime: tuple[Target, list[Any]]) -> None:
    target, seen = runtime
    assert asked(target).error is None
    assert not {"authorization", "x-amz-date"} & set(seen[0][1])


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("runtime.sagemaker.eu-west-1.amazonaws.com", "eu-west-1"),
        ("runtime.sagemaker.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("runtime-fips.sagemaker.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("vpce-0a-1.runtime.sagemaker.us-east-2.vpce.amazonaws.com", "us-east-2"),
        ("localhost", "us-east-1"),
    ],
)
def test_the_region_is_that_of_the_host(monkeypatch: pytest.MonkeyPatch, host: str, region: str) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    headers = EndpointRoute(target_of(f"https://{host}"), "mine").headers(b"{}", {})
    assert f"/{region}/sagemaker/aws4_request" in headers["authorization"]
    assert headers["host"] == host  # AWS signs no port that goes without saying


@pytest.mark.parametrize("missing", ["botocore.session", "botocore.exceptions"])
def test_without_botocore_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LmiError, match=r"bench.no-botocore: endpoint mine .*'lmi-core\[aws\]"):
        EndpointRoute(LOCAL, "mine")


def test_a_profile_that_is_not_there_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(LmiError, match=r"bench.no-credentials: .*\(nowhere\)"):
        EndpointRoute(LOCAL, "mine")


# -------------------------------------------------------------------------------------------------------------- answers


def hear(stream: bytes, n_bytes: int = 10_000) -> Hearing:
    hearing = Hearing()
    ear = EndpointRoute(LOCAL, "mine").ear(hearing)
    for at in range(0, len(stream), n_bytes):
        ear(stream[at : at + n_bytes])
    hearing.end()
    return hearing


@pytest.mark.parametrize("n_bytes", [1, 7, 1000])
def test_a_stream_of_events_is_heard_alike_wherever_it_is_cut(n_bytes: int) -> None:
    heard = hear(b"".join(event_stream.part(LINES[at : at + 20]) for at in range(0, len(LINES), 20)), n_bytes)
    assert (heard.error, heard.n_tokens, heard.has_token_lines) == (None, 2, True)


def test_tokens_of_one_event_have_one_moment() -> None:
    assert len(hear(event_stream.part(LINES)).arrivals_s) == 1
    by_line = b"".join(map(event_stream.part, LINES.splitlines(keepends=True)))
    assert len(hear(by_line, n_bytes=len(event_stream.part(LINES.splitlines(keepends=True)[0]))).arrivals_s) == 2


def test_a_stream_that_the_platform_ends_is_an_error_with_its_code() -> None:
    broken = event_stream.exception("ModelStreamError", {"Message": "cut off", "ErrorCode": "StreamBroken"})
    assert hear(event_stream.part(LINES) + broken).error == ("StreamBroken", "cut off")
    failed = event_stream.exception("InternalStreamFailure", {"Message": "sorry"})
    assert hear(failed).error == ("InternalStreamFailure", "sorry")


def test_an_answer_that_is_no_stream_of_events_is_told() -> None:
    error = hear(LINES * 3).error
    assert error is not None
    assert error[0] == "client.not-events"


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        (424, "ModelError", {"OriginalStatusCode": 429, "OriginalMessage": '{"error":"queue.full","message":"full"}'},
         ("queue.full", "full")),
        (424, "ModelError", {"OriginalStatusCode": 503, "OriginalMessage": "oh"}, ("http.503", "oh")),
        (400, "ValidationError", {"Message": "no such endpoint"}, ("ValidationError", "no such endpoint")),
        (400, "ThrottlingException:http://x", {"message": "slower"}, ("ThrottlingException", "slower")),
        (403, "", {"message": "no"}, ("http.403", "no")),
        (502, "", "<html>", ("http.502", "<html>")),
    ],
)  # fmt: skip
def test_an_error_is_the_containers_own_or_the_platforms(
    status: int, kind: str, body: Any, expected: tuple[str, str]
) -> None:
    content = bytearray((body if isinstance(body, str) else json.dumps(body)).encode())
    headers = {"x-amzn-errortype": kind} if kind else {}
    answer = Answer(status=status, headers=headers, body=content)
    assert EndpointRoute(LOCAL, "mine").error_of(answer) == expected
