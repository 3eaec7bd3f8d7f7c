# SPDX-License-Identifier: Apache-2.0
"""Mistakes in where a model is said to be: each is told with what was meant, and with what the user wrote."""

import json
import logging

import pytest

from lmi.api import ArtifactError
from lmi.artifacts import place_of, refused_location
from lmi.artifacts.places.finding import fetched
from lmi.artifacts.places.store_credentials import endpoint_of
from lmi.artifacts.places.store_errors import explained
from tests.core.archive_files import zipped

MEANT = [
    ("s3:/bucket/x", "Did you mean s3://bucket/x?"),
    ("S3:bucket/x", "Did you mean s3://bucket/x?"),
    ("s3:///bucket/x", "Did you mean s3://bucket/x?"),
    ("s3:/bucket/bad/cut.zip", "Did you mean s3://bucket/bad/cut.zip?"),
    ("gs:/bucket/x", "Did you mean gs://bucket/x?"),
    ("arn:aws:s3:::bucket/x", "Did you mean s3://bucket/x?"),
    ("arn:aws-cn:s3:::bucket", "Did you mean s3://bucket?"),
    ("org/name/tree/main", "Write org/name with option.revision=main"),
    ("org/name/blob/v2/config.json", "Write org/name with option.revision=v2"),
    ("https://bucket.s3.amazonaws.com/key/", "Did you mean s3://bucket/key/?"),
    ("https://my.bucket.s3.eu-west-1.amazonaws.com/key", "Did you mean s3://my.bucket/key?"),
    ("https://s3.eu-west-1.amazonaws.com/bucket/key", "Did you mean s3://bucket/key?"),
    ("https://s3.amazonaws.com/bucket", "Did you mean s3://bucket/?"),
    ("s3://", "Write s3://BUCKET/PREFIX"),
    ("s3:/", "Write s3://BUCKET/PREFIX"),
    ("az://", "Write az://BUCKET/PREFIX"),
]


@pytest.mark.parametrize(("text", "hint"), MEANT)
def test_what_is_nearly_a_place_is_refused_with_the_place(text, hint):
    refusal = refused_location(text)
    assert refusal is not None
    assert (refusal.hint, text in refusal.message) == (hint, True)


@pytest.mark.parametrize("text", ["org/name", "s3://bucket/x", "https://bucket.s3.amazonaws.com/model.tar.gz", "tree"])
def test_what_can_be_a_place_is_not(text):
    assert refused_location(text) is None


@pytest.mark.parametrize(("written", "there"), [("tinny", "tiny"), ("tny.tar.gz", "tiny.tar.gz")])
def test_a_path_that_is_nearly_one_here_is_told_with_that(tmp_path, written, there):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny.tar.gz").write_bytes(b"")
    (tmp_path / "tinny.txt").write_bytes(b"")
    refusal = refused_location(str(tmp_path / written))
    assert refusal is not None
    assert refusal.hint == f"Did you mean {tmp_path / there}?"


def test_a_relative_path_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ArtifactError) as caught:
        place_of("./weights", None, tmp_path)
    assert caught.value.message == f"there is no folder './weights' in {tmp_path / 'here'} or {tmp_path}"


# the address of a store


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, ""),
        ({"AWS_ENDPOINT_URL": ""}, ""),
        ({"AWS_ENDPOINT_URL": "  "}, ""),
        ({"AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": "http://minio:9000"}, "http://minio:9000"),
        ({"AWS_ENDPOINT_URL_S3": "https://[::1]:9", "AWS_ENDPOINT_URL": "http://minio"}, "https://[::1]:9"),
        ({"AWS_ENDPOINT_URL": "https://host/path "}, "https://host/path"),
    ],
)
def test_an_endpoint_without_a_value_is_none(environ, endpoint):
    assert endpoint_of(environ) == endpoint


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("127.0.0.1:5000", "Write http://127.0.0.1:5000"),
        ("localhost", "Write http://localhost"),
        ("http://", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
        ("http://ho st", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
        ("http://höst", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
        ("http://host:99999", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
        ("http://host{}", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
        ("ftp://host", "Set AWS_ENDPOINT_URL to http(s)://HOST:PORT, or unset it"),
    ],
)
def test_an_endpoint_that_is_no_url_is_told_before_anything_is_asked(monkeypatch, value, hint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    with pytest.raises(ArtifactError) as caught:
        place_of("s3://bucket/m", None, None)
    assert (caught.value.message, caught.value.hint) == (f"AWS_ENDPOINT_URL={value} is no URL", hint)


def test_an_empty_endpoint_leads_to_aws(monkeypatch):
    from lmi.artifacts.places.stores import Store, location_of

    for name, value in {"AWS_ENDPOINT_URL": "", "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    opened = Store(location_of("s3://bucket/m"), timeout_s=1).opened()
    assert opened.config["endpoint"] == "https://s3.eu-west-1.amazonaws.com"


def test_a_store_of_azure_without_an_account_is_told_what_to_set():
    told = explained(ValueError("Generic MicrosoftAzure error: Account must be specified"), "az://c/x", {})
    assert (told.code, "AZURE_STORAGE_ACCOUNT_NAME" in told.hint) == ("model.access-denied", True)


@pytest.mark.parametrize(("url", "is_aws"), [("s3://c/x", True), ("az://c/x", False), ("gs://c/x", False)])
def test_a_host_that_nobody_knows_is_named_and_a_region_only_where_there_are_any(url, is_aws):
    text = 'Error performing GET https://host.example/c?list\n\nDebug source:\n error: "failed to lookup address"'
    told = explained(OSError(text), url, {})
    assert told.message == f"{url} cannot be read: failed to lookup address at https://host.example"
    assert ("AWS_REGION" in told.hint) is is_aws


# archives elsewhere


def test_an_archive_elsewhere_that_is_none_is_told_with_its_url(bucket, tmp_path):
    bucket.put("bad/text.tar.gz", "hello, this is text\n" * 100)
    environ = {"LMI_CACHE_DIR": str(tmp_path)}
    with pytest.raises(ArtifactError) as caught:
        place_of("s3://bucket/bad/text.tar.gz", None, None, environ=environ)
    assert (caught.value.code, caught.value.message) == (
        "archive.corrupt",
        "s3://bucket/bad/text.tar.gz cannot be unpacked: it is no gzip archive, whatever its name says",
    )


def test_a_zip_elsewhere_that_is_cut_off_is_told_with_its_url(bucket, tmp_path):
    bucket.put("bad/cut.zip", zipped(tmp_path / "a.zip", ("config.json", b"{}")).read_bytes()[:-30])
    with pytest.raises(ArtifactError, match=r"archive.corrupt: s3://bucket/bad/cut\.zip cannot be unpacked"):
        place_of("s3://bucket/bad/cut.zip", None, None, environ={"LMI_CACHE_DIR": str(tmp_path)}, may_fetch=False)


def test_the_log_names_an_archive_that_is_fetched_and_the_cache_that_a_second_start_takes_it_from(
    bucket, tmp_path, caplog
):
    bucket.put("m/a.zip", zipped(tmp_path / "a.zip", ("config.json", json.dumps({}).encode())).read_bytes())
    environ = {"LMI_CACHE_DIR": str(tmp_path / "cache")}
    caplog.set_level(logging.INFO)
    place_of("s3://bucket/m/a.zip", None, None, environ=environ)
    assert "(1 file) from s3://bucket/m/a.zip to" in caplog.text
    caplog.clear()
    place_of("s3://bucket/m/a.zip", None, None, environ=environ)
    assert "s3://bucket/m/a.zip is unchanged; it is taken from the cache at" in caplog.text
    assert "fetching" not in caplog.text


def test_a_prefix_that_is_fetched_twice_is_unchanged_the_second_time(bucket, tmp_path, caplog):
    for name in ("config.json", "tokenizer.json"):
        bucket.put(f"m/{name}", "{}")
    files = place_of("s3://bucket/m", None, None)
    caplog.set_level(logging.INFO)
    environ = {"LMI_CACHE_DIR": str(tmp_path)}
    folder = fetched(files, list(files.sizes), environ=environ)
    assert "unchanged" not in caplog.text
    assert fetched(files, list(files.sizes), environ=environ) == folder
    assert f"s3://bucket/m is unchanged; it is taken from the cache at {folder}" in caplog.text
