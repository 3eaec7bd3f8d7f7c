# SPDX-License-Identifier: Apache-2.0
"""Where the server listens: which address is wanted, and what stands in its way."""

import datetime
import logging
import os
import socket
from pathlib import Path

import pytest

from lmi.api import ConfigError
from lmi.config.server import read_server_settings, server_options
from lmi.serving.address import Address, bind, management_address, socket_file, unbind, wanted_address

FILES = {"SERVING_PRIVATE_KEY_FILE": "/key.pem", "SERVING_CERTIFICATE_FILE": "/cert.pem"}


def address_of(text="http://0.0.0.0:8080", environ=(), **flags):
    environ = {"SERVING_INFERENCE_ADDRESS": text, **dict(environ)}
    settings = read_server_settings(environ)
    return wanted_address(server_options(settings)[0], settings, environ, **flags)


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("http://127.0.0.1:8081", "127.0.0.1", 8081, ""),
        ("http://localhost", "localhost", 8080, ""),
        ("http://[::1]:9000/", "::1", 9000, ""),
        ("unix:/run/lmi.sock", "0.0.0.0", 8080, "/run/lmi.sock"),
        ("unix:///run/lmi.sock", "0.0.0.0", 8080, "/run/lmi.sock"),
    ],
)
def test_an_address_is_read(text, host, port, path):
    found = address_of(text)
    assert (found.host, found.port, found.path) == (host, port, path)


@pytest.mark.parametrize(
    ("environ", "flags", "port"),
    [
        ({}, {}, 8081),
        ({"SAGEMAKER_BIND_TO_PORT": ""}, {}, 8081),
        ({"SAGEMAKER_BIND_TO_PORT": " "}, {}, 8081),
        ({"SAGEMAKER_BIND_TO_PORT": "9000"}, {}, 9000),
        ({"SAGEMAKER_BIND_TO_PORT": "9000"}, {"port": 9001}, 9001),
        ({"SAGEMAKER_BIND_TO_PORT": "9000"}, {"port": 0}, 0),
    ],
)
def test_the_port_is_that_of_the_flag_else_of_sagemaker_else_of_the_address(environ, flags, port):
    found = address_of("http://127.0.0.1:8081", environ, **flags)
    assert (found.host, found.port) == ("127.0.0.1", port)


@pytest.mark.parametrize("text", ["8080", "ftp://0.0.0.0:1", "http://0.0.0.0:99999", "http://:8080", "unix:"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match=rf"inference_address={text} \(SERVING_INFERENCE_ADDRESS\)"):
        address_of(text)


@pytest.mark.parametrize("text", ["x", "0", "65536"])
def test_a_port_of_sagemaker_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=f"SAGEMAKER_BIND_TO_PORT='{text}' is no port"):
        address_of(environ={"SAGEMAKER_BIND_TO_PORT": text})


# ------------------------------------------------------------------------------------------------------ asked in vain


@pytest.mark.parametrize(
    ("environ", "flags", "reason", "place"),
    [
        ({"SAGEMAKER_BIND_TO_PORT": "9000"}, {}, "SAGEMAKER_BIND_TO_PORT=9000", "port 9000 of 0.0.0.0"),
        ({}, {"port": 9001}, "--port=9001", "port 9001 of 0.0.0.0"),
        ({}, {"host": "127.0.0.1"}, "--host=127.0.0.1", "port 8080 of 127.0.0.1"),
    ],
)
def test_a_unix_address_that_a_port_overrules_is_warned_of(caplog, environ, flags, reason, place):
    assert address_of("unix:/run/lmi.sock", environ, **flags).path == ""
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("config.overruled", "unix:/run/lmi.sock", "SERVING_INFERENCE_ADDRESS", reason, place):
        assert part in record.getMessage()


@pytest.mark.parametrize("text", ["http://0.0.0.0:8080", "unix:/run/lmi.sock"])
def test_key_and_certificate_without_https_are_warned_of_and_not_used(caplog, text):
    found = address_of(text, FILES)
    assert (found.private_key_file, found.certificate_file) == (None, None)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message, key in zip(messages, ("private_key_file", "certificate_file"), strict=True):
        assert f"config.no-effect] {key}=/" in message
        assert f"SERVING_{key.upper()}" in message
        assert text in message


@pytest.mark.parametrize(
    ("text", "environ", "flags"),
    [
        ("http://0.0.0.0:8080", {"SAGEMAKER_BIND_TO_PORT": "9000"}, {}),
        ("unix:/run/lmi.sock", {"SAGEMAKER_BIND_TO_PORT": ""}, {}),
        ("HTTPS://0.0.0.0:8443", FILES, {"port": 9001}),
    ],
)
def test_nothing_is_warned_of_where_all_that_is_asked_for_is_done(caplog, text, environ, flags):
    address_of(text, environ, **flags)
    assert caplog.records == []


# ------------------------------------------------------------------------------------------------------------- binding


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ({"host": "é..x", "port": 80}, "port 80 of 'é..x'"),
        ({"host": "a\0b", "port": 80}, r"port 80 of 'a\x00b'"),
        ({"host": "256.0.0.1", "port": 80}, "port 80 of '256.0.0.1'"),
        ({"port": 65536}, "port 65536 of '0.0.0.0'"),
        ({"path": "/tmp/a\0b"}, r"'/tmp/a\x00b'"),
        ({"path": "/no/such/folder/s"}, "'/no/such/folder/s'"),
        ({"path": "/tmp/" + "x" * 200}, "xxx'"),
    ],
)
def test_what_cannot_be_bound_says_so_with_its_source(address, shown):
    with pytest.raises(ConfigError) as caught:
        bind(Address(source="SERVING_INFERENCE_ADDRESS", **address))
    assert str(caught.value).startswith("server.cannot-bind: ")
    assert f"{shown} (SERVING_INFERENCE_ADDRESS) cannot be used: " in caught.value.message
    assert caught.value.hint.startswith("Choose another inference_address")


def test_a_port_in_use_is_refused_with_the_flag_that_chooses_another():
    with bind(Address(host="127.0.0.1", port=0)) as listener, pytest.raises(ConfigError) as caught:
        bind(address_of(host="127.0.0.1", port=listener.getsockname()[1]))
    assert "(--host=127.0.0.1 and --port=" in caught.value.message
    assert caught.value.hint == "Choose another inference_address or --port"


def test_a_unix_socket_that_nobody_answers_is_replaced_and_one_in_use_is_not(tmp_path):
    address = address_of(f"unix:{tmp_path}/s")
    bind(address).close()  # as a server leaves it that died
    with bind(address) as listener:
        assert address.url(listener) == f"unix:{tmp_path}/s"
        with pytest.raises(ConfigError, match=r"server\.cannot-bind"):
            bind(address)
        unbind(address, socket_file(address))
    assert not (tmp_path / "s").exists()


def test_a_unix_socket_whose_server_is_too_busy_to_answer_is_not_replaced(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(path)
        busy.listen(0)
        first.connect(path)  # the queue is full now: whoever connects next would wait
        with pytest.raises(ConfigError, match="Address already in use"):
            bind(Address(path=path))
    assert Path(path).is_socket()


def test_the_socket_of_the_next_server_is_not_removed(tmp_path):
    address = Address(path=str(tmp_path / "s"))
    first = bind(address)
    own = socket_file(address)
    first.close()
    # The file system may give the removed file's inode to the next one, so that alone does not tell them apart.
    with bind(address):
        os.utime(address.path, ns=(0, 0))
        unbind(address, own)
        assert Path(address.path).is_socket()
    Path(address.path).unlink()
    unbind(address, own)  # somebody has removed it: nothing to do


# --------------------------------------------------------------------------------------------------------------- https


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """Paths by name: key, cert; other_key; secret (a key with a password); junk."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("pem")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lmi")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"hush")
    contents = {
        "key": key.private_bytes(encoding, form, plain),
        "other_key": other.private_bytes(encoding, form, plain),
        "secret": key.private_bytes(encoding, form, locked),
        "cert": made.sign(key, hashes.SHA256()).public_bytes(encoding),
        "junk": b"junk",
    }
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return folder


def https_of(pem, key, cert):
    return Address(host="127.0.0.1", port=0, private_key_file=str(pem / key), certificate_file=str(pem / cert))


def test_a_key_and_its_certificate_are_taken(pem):
    address = https_of(pem, "key", "cert")
    with bind(address) as listener:
        assert address.url(listener).startswith("https://127.0.0.1:")


@pytest.mark.parametrize(
    ("key", "cert", "reason"),
    [
        ("none", "cert", "private_key_file: No such file or directory"),
        ("key", "none", "certificate_file: No such file or directory"),
        (".", "cert", "private_key_file: Is a directory"),
        ("a\0b", "cert", "private_key_file: embedded null byte"),
        ("junk", "cert", "private_key_file holds no private key in PEM"),
        ("cert", "cert", "private_key_file holds no private key in PEM"),
        ("key", "junk", "certificate_file holds no certificate in PEM"),
        ("other_key", "cert", "the certificate was made for another key"),
        ("secret", "cert", "the private key is encrypted"),
    ],
)
def test_files_that_do_not_serve_https_are_named_both_and_told_apart(pem, key, cert, reason):
    address = https_of(pem, key, cert)
    with pytest.raises(ConfigError) as caught:
        bind(address)
    assert caught.value.code == "server.cannot-bind"
    assert f"private_key_file={address.private_key_file} with certificate_file={address.certificate_file}" in str(
        caught.value
    )
    assert reason in caught.value.message


def managed(text, safe_ports=None):
    settings = read_server_settings({"SERVING_MANAGEMENT_ADDRESS": text})
    return management_address(server_options(settings)[0], settings, safe_ports)


@pytest.mark.parametrize("text", ["http://127.0.0.1:9000", "http://0.0.0.0:9099", "unix:/run/lmi.sock"])
def test_models_are_managed_in_the_safe_range_or_at_no_port(text):
    assert managed(text, (9000, 9099)) == managed(text)


@pytest.mark.parametrize("port", [8999, 9100, 0])
def test_a_management_port_outside_of_the_safe_range_is_refused_with_the_range(port):
    assert managed(f"http://127.0.0.1:{port}").port == port
    told = (
        rf"server.port-not-safe: management_address=http://127.0.0.1:{port} \(SERVING_MANAGEMENT_ADDRESS\) has port "
        rf"{port}, and SAGEMAKER_SAFE_PORT_RANGE=9000-9099: .* Take a port from 9000 to 9099"
    )
    with pytest.raises(ConfigError, match=told):
        managed(f"http://127.0.0.1:{port}", (9000, 9099))
