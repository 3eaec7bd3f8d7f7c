# SPDX-License-Identifier: Apache-2.0
"""Tokens, keys and passwords reach the place they are for, and no message, whatever they look like."""

from __future__ import annotations

import base64
import http.server
import threading

import pytest
from huggingface_hub import constants

from lmi.api import ArtifactError
from lmi.artifacts.places.finding import place_of
from lmi.artifacts.places.hub_errors import explained
from lmi.artifacts.places.objects import ObjectFiles
from lmi.artifacts.places.web import WebFiles
from tests.hubs import Repository, started_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = {"config.json": b"{}"}
    with started_hub({"org/open": Repository(files), "org/gated": Repository(files, is_gated=True)}) as found:
        yield found


def failure(model_id: str, **environ: str) -> str:
    with pytest.raises(ArtifactError) as caught:
        place_of(model_id, None, None, environ=environ)
    return f"{caught.value} {caught.value.problems}"


@pytest.mark.parametrize("token", ["good\n", " good ", "good\r\n"])
def test_what_a_file_or_a_copy_puts_around_a_token_is_no_part_of_it(hub, token):
    files = place_of("org/gated", None, None, environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": token})
    assert files.read("config.json") == b"{}"


@pytest.mark.parametrize("token", ["hf_SEC\nRET", "hf_SEC RET", "hf_SEC\0RET", "hf_SECRET\u00e9"])
def test_what_can_be_no_token_is_told_by_its_variable_alone(hub, token):
    told = failure("org/gated", HF_ENDPOINT=hub.url, HF_TOKEN=token)
    assert told.startswith("model.access-denied: HF_TOKEN holds ")
    assert "SEC" not in told
    assert hub.asked == []


def test_a_header_that_a_library_quotes_is_not_told():
    error = explained("org/model", None, RuntimeError("Illegal header value b'Bearer hf_SECRET more\\n'"))
    assert "Illegal header value b'Bearer ***'" in error.message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
@pytest.mark.parametrize("value", ["SECRET\n", "SEC RET", "SECRET\u00e9"])
def test_a_variable_of_aws_that_no_request_can_carry_is_named_without_its_value(bucket, monkeypatch, name, value):
    bucket.put("m/config.json", "{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv(name, value)
    with pytest.raises(ArtifactError) as caught:
        ObjectFiles("s3://bucket/m")
    assert str(caught.value).startswith(f"model.access-denied: {name} holds a line break, ")
    assert "SEC" not in str(caught.value).replace(name, "")


@pytest.mark.parametrize(
    ("model_id", "environ"),
    [
        ("http://user:SECRET@host/folder", {}),
        ("ftp://user:SECRET@host/m.zip", {}),
        ("https://host/m?X-Amz-Signature=SECRET", {}),
        ("http://[user:SECRET@host/m.zip", {}),
        ("http://user:SECRET@127.0.0.1:9/m.zip", {}),
        ("org/model", {"HF_ENDPOINT": "http://user:SECRET@127.0.0.1:9"}),
        ("s3://bucket/m", {"AWS_ENDPOINT_URL": "http://user:SECRET@127.0.0.1:9"}),
    ],
)
def test_a_password_in_a_url_is_not_told(hub, monkeypatch, model_id, environ):
    monkeypatch.setattr("lmi.artifacts.places.web._FIRST_WAIT_S", 0.0)
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "x", **environ}.items():
        monkeypatch.setenv(name, value)
    told = failure(model_id, **environ)
    assert told.startswith(("model.unsupported-location: ", "model.unreachable: "))
    assert "SECRET" not in told


def test_the_place_of_a_hub_behind_a_password_does_not_have_it(hub):
    files = place_of("org/open", None, None, environ={"HF_ENDPOINT": hub.url.replace("://", "://user:SECRET@")})
    assert files.place == f"{hub.url.replace('://', '://***@')}/org/open/resolve/main"
    assert files.read("config.json") == b"{}"


class Guarded(http.server.BaseHTTPRequestHandler):
    """Leads to another server who has the name and the password; there, nobody needs them."""

    to, said = "", ()

    def do_GET(self) -> None:
        own = type(self)
        own.said = (*own.said, self.headers.get("Authorization"))
        self.send_response(302 if own.to else 200)
        if own.to:
            self.send_header("Location", own.to)
        self.send_header("Content-Length", "0" if own.to else "7")
        self.end_headers()
        self.wfile.write(b"" if own.to else b"content")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def servers():
    started = []
    for _ in range(2):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Guarded,), {}))
        thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
        thread.start()
        started.append((server, thread))
    yield [server for server, _ in started]
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_password_in_a_url_is_sent_to_its_server_and_to_no_other(servers):
    first, second = (server.RequestHandlerClass for server in servers)
    first.to = f"http://127.0.0.1:{servers[1].server_port}/m.zip"
    files = WebFiles(f"http://us%40er:SECRET@127.0.0.1:{servers[0].server_port}/m.zip")
    assert files.place == f"http://127.0.0.1:{servers[0].server_port}"
    assert first.said == (f"Basic {base64.b64encode(b'us@er:SECRET').decode()}",)
    assert second.said == (None,)
