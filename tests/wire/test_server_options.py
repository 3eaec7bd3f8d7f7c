# SPDX-License-Identifier: Apache-2.0
"""Real servers as containers configure them: several models, none, other addresses, models in an object store."""

import datetime
import ipaddress
import json
import ssl
from pathlib import Path

import httpx
import pytest

from tests.buckets import Bucket
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
        assert client.post("/invocations", json=BODY, params={"model_name": "a"}).status_code == 200
        assert client.post("/invocations", json=BODY, headers={"model_name": "c"}).status_code == 404


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


@pytest.mark.parametrize("state", ["empty", "read-only"])
def test_a_model_id_alone_serves_that_model_whatever_becomes_of_the_models_folder(demo_model, tmp_path, state) -> None:
    store = tmp_path / "model"
    store.mkdir()
    environ = {"SERVING_MODEL_STORE": str(store), "OPTION_MODEL_ID": str(demo_model), "OPTION_DTYPE": "fp32"}
    if state == "read-only":
        (store / "serving.properties").write_text("option.max_rolling_batch_size=2\n")
        store.chmod(0o555)
    with serve(environ=environ) as server:
        answer = server.post({"inputs": "The capital of France is"}, "/predictions/model")
        assert answer.json()["generated_text"].startswith(" Paris")


def test_a_model_id_alone_serves_that_model_where_the_entry_names_a_missing_folder(demo_model) -> None:
    environ = {
        "SERVING_LOAD_MODELS": "test::Python=/no/such/ml/model",
        "OPTION_MODEL_ID": str(demo_model),
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
        assert "this model takes 40" in server.post(long).text


def test_the_plain_keys_of_config_properties_hold_for_every_model(echo_folder, tmp_path) -> None:
    file = tmp_path / "config.properties"
    file.write_text(f"load_models=a={echo_folder('one')}\nmax_request_size=10\n")
    with serve("-f", str(file)) as server:
        answer = server.post(BODY)
        assert (answer.status_code, answer.json()["error"]) == (413, "request.too-large")


def test_ping_is_200_while_models_load_when_nobody_is_to_wait_for_them(tmp_path) -> None:
    (tmp_path / "model.py").write_text("import time\n\ndef handle(inputs):\n    time.sleep(600)\n")
    for extra, status in (({}, 200), ({"SERVING_ALLOW_MULTI_STATUS": "true"}, 207)):
        environ = {"SERVING_WAIT_MODEL_LOADING": "false", **extra}
        with serve(str(tmp_path), environ=environ, is_ready=False) as server, server.client() as client:
            assert client.get("/ping").status_code in (503, status)  # the model is not looked at yet, or loads
            answer = eventually(lambda: (got := client.get("/ping")) and "model" in got.json() and got)
            assert (answer.status_code, answer.json()["model"]["status"]) == (status, "PENDING")


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
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://lmi") as client:
            assert client.post("/invocations", json=BODY).status_code == 200
        server.terminate()
        assert server.wait_for_end() == 0
    assert not path.exists()


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
