# SPDX-License-Identifier: Apache-2.0
"""Real servers as containers configure them: several models, none, other addresses, models in an object store."""

import datetime
import ipaddress
import json
import shlex
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from lmi.testing import write_tiny
from tests.buckets import Bucket
from tests.limits import limit_s
from tests.servers import eventually, serve

BODY = {"inputs": "hello world", "parameters": {"max_new_tokens": 2}}


@pytest.fixture
def echo_folder(tmp_path: Path):
    """Makes folders with a serving.properties for the echo backend."""

    def _make(name: str, text: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "serving.properties").write_text(f"option.rolling_batch=echo\n{text}")
        return folder

    return _make


def test_several_models_are_served_each_under_its_name(echo_folder) -> None:
    one, two = echo_folder("one"), echo_folder("two", "option.max_model_len=40\n")
    environ = {"SERVING_LOAD_MODELS": f"a:v1={one},b::Python={two}"}
    with serve(environ=environ) as server, server.client() as client:
        ping = client.get("/ping")
        assert (ping.status_code, sorted(ping.json())) == (200, ["a", "b"])
        assert client.post("/predictions/a", json=BODY).status_code == 200
        assert client.post("/predictions/a/v1", json=BODY).status_code == 200
        assert client.post("/predictions/a/v2", json=BODY).status_code == 404
        # Each has its own configuration: what fits into one is too long for the other.
        long = {**BODY, "inputs": "one two three four five six seven eight nine ten"}
        assert client.post("/predictions/a", json=long).status_code == 200
        assert client.post("/predictions/b", json=long).status_code == 400
        unnamed = client.post("/invocations", json=BODY)
        assert (unnamed.status_code, unnamed.json()["error"]) == (400, "request.no-model")
        assert "several models are served (a, b)" in unnamed.json()["message"]
        assert "POST /predictions/NAME or POST /invocations?model_name=NAME" in unnamed.json()["message"]
        assert client.post("/invocations", json=BODY, params={"model_name": "a"}).status_code == 200
        assert client.post("/invocations", json=BODY, headers={"model_name": "c"}).status_code == 404
        for name, status in (("a", 200), ("c", 404)):
            headers = {"X-Amzn-SageMaker-Target-Model": name}
            assert client.post("/invocations", json=BODY, headers=headers).status_code == status


def test_what_is_wrong_with_several_models_is_told_at_once(echo_folder) -> None:
    one, two = echo_folder("one", "option.dtpye=x\n"), echo_folder("two", "minWorkers=none\n")
    with serve(environ={"SERVING_LOAD_MODELS": f"a={one} b={two}"}, is_ready=False) as server:
        assert server.wait_for_end() == 2
    assert "model 'a': 'option.dtpye' is not an option" in server.output
    assert "model 'b': 'minWorkers' is 'none'" in server.output


def test_no_model_is_a_healthy_server_that_says_so() -> None:
    with serve(environ={"SERVING_LOAD_MODELS": "NONE"}, is_ready=False) as server:
        server.wait_for_line("no model is loaded")
        with server.client() as client:
            assert client.get("/ping").status_code == 200
        answer = server.post(BODY)
        assert (answer.status_code, answer.json()["error"]) == (404, "model.not-found")


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """What a folder holds, and when and how all of it was changed."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize("state", ["empty", pytest.param("configured", marks=pytest.mark.long)])
def test_a_model_id_alone_serves_that_model_and_nothing_is_written_into_the_models_folder(
    demo_model, tmp_path, state
) -> None:
    store = tmp_path / "model"
    store.mkdir()
    environ = {"SERVING_MODEL_STORE": str(store), "OPTION_MODEL_ID": str(demo_model), "OPTION_DTYPE": "fp32"}
    if state == "configured":
        (store / "serving.properties").write_text("option.max_rolling_batch_size=2\n")
    store.chmod(0o555)  # stops a write where the tests do not run as root; the comparison finds it everywhere
    before = contents(store)
    with serve(environ=environ) as server:
        body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 3}}
        answer = server.post(body, "/predictions/model")
        assert answer.json()["generated_text"].startswith(" Paris")
        server.terminate()
        assert server.wait_for_end() == 0
    assert contents(store) == before


@pytest.mark.long
def test_a_model_id_alone_serves_that_model_where_the_entry_names_a_missing_folder(tmp_path) -> None:
    environ = {
        "SERVING_LOAD_MODELS": "test::Python=/no/such/ml/model",
        "OPTION_MODEL_ID": str(write_tiny("llama", tmp_path / "model")),
        "OPTION_ENTRYPOINT": "djl_python.huggingface",
        "OPTION_ROLLING_BATCH": "scheduler",
        "OPTION_DTYPE": "fp32",
    }
    with serve(environ=environ) as server:
        assert "/no/such/ml/model does not exist" in server.output
        assert server.post(BODY, "/predictions/test").status_code == 200


def test_a_prefix_of_an_object_store_brings_its_configuration(bucket: Bucket) -> None:
    bucket.put("models/echo/serving.properties", "option.rolling_batch=echo\noption.max_model_len=40\n")
    with serve("s3://bucket/models/echo", environ=bucket.environ) as server:
        assert server.post(BODY).status_code == 200
        long = {**BODY, "inputs": "one two three four five six seven eight nine ten"}
        assert "maximum context length is 40" in server.post(long).text


def test_the_plain_keys_of_config_properties_hold_for_every_model(echo_folder, tmp_path) -> None:
    file = tmp_path / "config.properties"
    file.write_text(f"load_models=a={echo_folder('one')}\nmax_request_size=10\n")
    with serve("-f", str(file)) as server:
        answer = server.post(BODY)
        assert (answer.status_code, answer.json()["error"]) == (413, "request.too-large")


def test_browsers_may_call_from_the_allowed_origin_only(echo_folder) -> None:
    environ = {"SERVING_CORS_ALLOWED_ORIGIN": "https://here.example", "SERVING_CORS_ALLOWED_METHODS": "POST"}
    with serve(str(echo_folder("one")), environ=environ) as server:
        for origin, allowed in (("https://here.example", "https://here.example"), ("https://there.example", None)):
            answer = server.post(BODY, headers={"origin": origin})
            assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, allowed)


def test_requests_are_answered_on_a_unix_socket(echo_folder, tmp_path) -> None:
    path = tmp_path / "lmi.sock"
    environ = {"SERVING_INFERENCE_ADDRESS": f"unix:{path}"}
    with serve(str(echo_folder("one")), environ=environ, address=()) as server:
        with on_socket(path) as client:
            assert client.post("/invocations", json=BODY).status_code == 200
        server.terminate()
        assert server.wait_for_end() == 0
    assert not path.exists()


def on_socket(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://lmi", timeout=limit_s(60))


def test_a_server_that_drains_leaves_the_socket_to_the_next_one(echo_folder, tmp_path) -> None:
    path = tmp_path / "lmi.sock"
    environ = {"SERVING_INFERENCE_ADDRESS": f"unix:{path}"}
    folder = str(echo_folder("one", "option.step_delay_ms=20\n"))
    long = {"inputs": "abc", "parameters": {"max_new_tokens": 8000}, "stream": True}
    drain = ("--drain-timeout", "3600")
    with (
        serve(folder, *drain, environ=environ, address=()) as old,
        on_socket(path) as client,
        client.stream("POST", "/invocations", json=long) as running,
    ):
        lines = running.iter_lines()
        next(lines)
        old.terminate()
        eventually(lambda: is_unanswered(path))
        with serve(folder, environ=environ, address=()) as new, on_socket(path) as other:
            assert next(lines)  # the old one still works on its request
            running.close()
            assert old.wait_for_end() == 0
            assert other.post("/invocations", json=BODY).status_code == 200
            new.terminate()
            assert new.wait_for_end() == 0
    assert not path.exists()


def is_unanswered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("is_unix", [False, True])
@pytest.mark.parametrize("routes", [{"a": "/invocations"}, {"a": "/predictions/a", "b": "/predictions/b"}])
def test_the_command_that_is_shown_for_each_model_works(echo_folder, tmp_path, routes, is_unix) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in routes:
        echo_folder(f"store/{name}")
    environ = {"SERVING_MODEL_STORE": str(store), "SERVING_LOAD_MODELS": "ALL"}
    if is_unix:
        environ["SERVING_INFERENCE_ADDRESS"] = f"unix:{tmp_path}/a socket"
    with serve(environ=environ, **({"address": ()} if is_unix else {})) as server:
        eventually(lambda: len(tries_of(server.lines)) == len(routes))
        for command, route in zip(tries_of(server.lines), routes.values(), strict=True):
            assert f"{route} " in command
            done = subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=limit_s(30))
            assert json.loads(done.stdout)["generated_text"]


def tries_of(lines: list[str]) -> list[str]:
    return [line.removeprefix("try: ") for line in lines if line.startswith("try: ")]


@pytest.mark.parametrize(
    ("path", "near"), [("/invocation", "'/invocations'"), ("/helth", "'/health'"), ("/v9/nothing", None)]
)
def test_an_unknown_route_is_answered_with_the_routes_there_are(path, near) -> None:
    with serve(environ={"SERVING_LOAD_MODELS": "NONE"}, is_ready=False) as server, server.client() as client:
        message = client.post(path, json=BODY).json()["message"]
    for route in ("/invocations", "/predictions/{model}", "/ping", "/health", "/metrics", "/docs"):
        assert route in message
    assert (f"Did you mean {near}?" in message) if near else ("Did you mean" not in message)


def test_files_that_cannot_be_used_for_https_end_the_start_before_anything_slow(echo_folder, tmp_path) -> None:
    key, certificate = _self_signed(tmp_path)
    key.write_text("no key")
    environ = {
        "SERVING_INFERENCE_ADDRESS": "https://127.0.0.1:0",
        "SERVING_PRIVATE_KEY_FILE": str(key),
        "SERVING_CERTIFICATE_FILE": str(certificate),
    }
    with serve(str(echo_folder("one")), environ=environ, address=(), is_ready=False) as server:
        assert server.wait_for_end() == 2
    assert "server.cannot-bind: private_key_file=" in server.output
    assert "Traceback" not in server.output
    assert "listening on" not in server.output


def test_requests_are_answered_over_https(echo_folder, tmp_path) -> None:
    key, certificate = _self_signed(tmp_path)
    environ = {
        "SERVING_INFERENCE_ADDRESS": "https://127.0.0.1:0",
        "SERVING_PRIVATE_KEY_FILE": str(key),
        "SERVING_CERTIFICATE_FILE": str(certificate),
    }
    with serve(str(echo_folder("one")), environ=environ, address=()) as server:
        assert server.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.post(f"{server.url}/invocations", json=BODY, verify=trust)
        assert json.loads(answer.text)["generated_text"]


def _self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lmi")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    return folder / "key.pem", folder / "cert.pem"
