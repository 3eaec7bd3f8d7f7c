# SPDX-License-Identifier: Apache-2.0
"""A model in an object store is listed and read in ranges, and whatever the store refuses is said in words."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.api import ArtifactError
from lmi.artifacts.places.objects import ObjectFiles, StoreError, is_object_url, object_size, read_object
from lmi.artifacts.places.store_errors import explained
from lmi.artifacts.places.stores import location_of
from tests.buckets import Bucket
from tests.proxies import Fault, Proxy, proxy_before

ROOT = Path(__file__).parents[2]
MODEL = {"config.json": "{}", "tokenizer.json": "[1, 2]", "sub/we ird%é#?.txt": "odd"}


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Proxy]:
    """Before the bucket; nothing else of this machine leads to credentials."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with proxy_before(bucket.environ["AWS_ENDPOINT_URL"]) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


def put_model(bucket: Bucket, prefix: str = "m") -> None:
    for name, text in MODEL.items():
        bucket.put(f"{prefix}/{name}", text)


def refusal(url: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        ObjectFiles(url)
    return caught.value


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("s3://bucket", "s3://bucket", ""),
        ("s3://bucket/", "s3://bucket", ""),
        ("s3://bucket/*", "s3://bucket", ""),
        ("s3://bucket/a/b", "s3://bucket", "a/b"),
        ("s3://bucket/a/b/", "s3://bucket", "a/b"),
        ("s3://bucket/a/b/*", "s3://bucket", "a/b"),
        ("S3://Bucket/A", "s3://Bucket", "A"),
        ("gs://bucket/a", "gs://bucket", "a"),
        ("az://container/a", "az://container", "a"),
        ("abfss://container@account.dfs.core.windows.net/a", "abfss://container@account.dfs.core.windows.net", "a"),
    ],
)
def test_an_url_is_a_bucket_and_a_prefix(url, root, key):
    assert (location_of(url).root, location_of(url).key) == (root, key)


@pytest.mark.parametrize("text", ["org/name", "/opt/ml/model", "s3:/bucket/a", "s3://", "https://host/a", "s4://b/a"])
def test_what_is_no_url_of_a_store_is_told_apart(text):
    assert not is_object_url(text)


@pytest.mark.parametrize("url", ["s3://bucket/m", "s3://bucket/m/", "s3://bucket/m/*", "s3://bucket"])
def test_a_prefix_is_listed_however_it_is_written(bucket, url):
    put_model(bucket)
    before = "m/" if url == "s3://bucket" else ""
    files = ObjectFiles(url)
    assert files.sizes == {before + name: len(text.encode()) for name, text in MODEL.items()}
    assert (files.place, files.is_here) == ("s3://bucket/m" if before == "" else "s3://bucket", False)


def test_hidden_files_and_what_stands_for_a_folder_are_left_out(bucket):
    put_model(bucket)
    for key in ("m/", "m/sub/", "m/nothing/", "m/.hidden", "m/.git/config", "m/empty", "m/empty.json"):
        bucket.put(key, "" if not key.startswith("m/.") else "x")
    assert sorted(set(ObjectFiles("s3://bucket/m").sizes) - set(MODEL)) == ["empty", "empty.json"]


def test_a_prefix_is_not_the_beginning_of_another_name(bucket):
    put_model(bucket)
    bucket.put("m-other/config.json", "{}")
    assert set(ObjectFiles("s3://bucket/m").sizes) == set(MODEL)


def test_ranges_are_read_and_counted(bucket):
    bucket.put("m/a", "0123456789")
    files = ObjectFiles("s3://bucket/m")
    parts = [("a", 0, None), ("a", 2, 3), ("a", 8, 100), ("a", 10, 1), ("a", 99, None), ("a", 4, 0)]
    assert files.read_all(parts) == [b"0123456789", b"234", b"89", b"", b"", b""]
    assert (files.n_bytes_read, files.n_requests) == (15, 4)


def test_one_object_is_told_from_a_prefix(bucket):
    bucket.put("m/model.tar.gz", "12345")
    sizes = [object_size(f"s3://bucket/{key}") for key in ("m/model.tar.gz", "m", "m/", "m/model.tar.gz/*", "")]
    assert sizes == [5, None, None, None, None]
    files = ObjectFiles("s3://bucket/m/model.tar.gz", is_single=True)
    assert (files.place, files.sizes, files.read("model.tar.gz", 1, 2)) == (
        "s3://bucket/m",
        {"model.tar.gz": 5},
        b"23",
    )


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("s3://bucket/mm", "model.not-found", "no files below s3://bucket/mm. Did you mean s3://bucket/m?"),
        ("s3://bucket/zzzzz", "model.not-found", "no files below s3://bucket/zzzzz. Check the spelling."),
        ("s3://nobucket/m", "model.not-found", "there is no bucket s3://nobucket."),
        ("s3://bucket/m/config.json", "model.not-a-folder", "is one object, not the prefix of a model's files. Name"),
    ],
)
def test_where_nothing_is_it_says_what_is_there_instead(bucket, url, code, text):
    put_model(bucket)
    error = refusal(url)
    assert error.code == code
    assert text in str(error)


def test_an_archive_that_is_not_there_is_named(bucket):
    with pytest.raises(ArtifactError, match=re.escape("model.not-found: there is no s3://bucket/m.zip.")):
        ObjectFiles("s3://bucket/m.zip", is_single=True)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("m/../evil", '".."'),
        ("m/a//b", "empty path segment"),
        ("m/a\\b", "holds a backslash"),
        ("m/a\x07b", "illegal character"),
        ("m/C:evil", "begins with a drive letter"),
        ("m/config.json/evil", "'config.json' is that of a folder too"),
        ("m/" + "x" * 256, "has more than 255 bytes between two '/'"),
    ],
)
def test_a_name_that_cannot_be_a_file_is_refused(bucket, key, text):
    put_model(bucket)
    bucket.put(key, "x")
    error = refusal("s3://bucket/m")
    assert error.code == "artifacts.unsafe-name"
    assert "s3://bucket/m holds an object that cannot be a file" in error.message
    assert text in error.message


def test_a_whole_bucket_of_other_things_is_no_model(bucket, monkeypatch):
    monkeypatch.setattr("lmi.artifacts.places.object_listing._N_FILES", 2)
    put_model(bucket)
    error = refusal("s3://bucket")
    assert (error.code, error.message) == ("model.too-many-files", "there are more than 2 files below s3://bucket")


@pytest.mark.parametrize(
    ("status", "code", "told", "texts"),
    [
        (
            403,
            "AccessDenied",
            "access-denied",
            ["answers 403 AccessDenied (the proxy says", "s3:ListBucket"],
        ),
        (400, "ExpiredToken", "access-denied", ["400 ExpiredToken", "have ended, or lack AWS_SESSION_TOKEN"]),
        (403, "InvalidAccessKeyId", "access-denied", ["Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]),
        (403, "SignatureDoesNotMatch", "access-denied", ["Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]),
        (403, "RequestTimeTooSkewed", "access-denied", ["Set this machine's clock"]),
        (401, "Unauthorized", "access-denied", ["answers 401"]),
        (404, "NoSuchBucket", "not-found", ["there is no bucket s3://bucket"]),
        (500, "InternalError", "unreachable", ["the store answers 500 InternalError (the proxy says InternalError)"]),
        (503, "SlowDown", "unreachable", ["the store answers 503 SlowDown", "Try again later"]),
    ],
)
def test_what_the_store_refuses_is_said_in_words(bucket, proxy, status, code, told, texts):
    put_model(bucket)
    proxy.faults = [Fault("list-type", status=status, code=code)]
    error = refusal("s3://bucket/m")
    assert error.code == f"model.{told}"
    for text in texts:
        assert text in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("fault", [Fault(status=503, code="SlowDown", times=2), Fault(cut_after_bytes=3, times=1)])
def test_what_passes_is_not_told(bucket, proxy, fault):
    put_model(bucket)
    files = ObjectFiles("s3://bucket/m")
    proxy.faults = [fault]
    assert files.read("tokenizer.json") == b"[1, 2]"


def test_a_breakdown_of_the_library_is_an_error_with_words(bucket, monkeypatch):
    class PanicException(BaseException):
        """As obstore raises it."""

    def breaks_down(*_: object, **__: object) -> None:
        raise PanicException("called `Result::unwrap()` on an `Err` value")

    monkeypatch.setattr("obstore.list", breaks_down)
    error = refusal("s3://bucket/m")
    assert error.code == "model.unreachable"
    assert "called `Result::unwrap()`" in error.message


def test_a_store_where_nobody_listens_is_named(bucket, proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = refusal("s3://bucket/m")
    assert str(error) == (
        "model.unreachable: s3://bucket/m cannot be read: Connection refused at http://127.0.0.1:9. "
        "Check the URL, the region (AWS_REGION) and the network."
    )


def test_a_store_that_says_nothing_is_not_waited_for_longer_than_told(bucket, proxy):
    proxy.faults = [Fault("list-type", silence_s=5)]
    with pytest.raises(ArtifactError, match=r"model.unreachable: .* no answer in time at http"):
        ObjectFiles("s3://bucket/m", timeout_s=0.2)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ("put", "model.changed", "s3://bucket/m/config.json was changed while the model was read"),
        ("delete", "model.not-found", "there is no s3://bucket/m/config.json"),
    ],
)
def test_a_file_that_changes_after_the_listing_is_an_error_that_carries_its_words(bucket, change, code, text):
    put_model(bucket)
    files = ObjectFiles("s3://bucket/m")
    if change == "put":
        bucket.put("m/config.json", "[]")
    else:
        bucket.delete("m/config.json")
    with pytest.raises(StoreError) as caught:
        files.read("config.json")
    assert (caught.value.error.code, caught.value.error.message) == (code, text)
    assert isinstance(caught.value, OSError)
    assert files.json("config.json") is None


class TestRegion:
    """A bucket is read in the region it is in, whatever the variables say."""

    ELSEWHERE = {"x-amz-bucket-region": "eu-west-1"}

    @pytest.fixture(params=[(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
    def far(self, bucket, proxy, request) -> Proxy:
        """The bucket is in eu-west-1, as the store says to everybody."""
        put_model(bucket)
        status, code = request.param
        proxy.faults = [
            Fault(method="HEAD", status=301, headers=self.ELSEWHERE, when=r"\A(?!.*authorization)(?s:.)*\Z"),
            Fault(status=status, code=code, when="us-east-1/s3/aws4_request"),
        ]
        return proxy

    def test_a_wrong_region_is_corrected(self, far):
        files = ObjectFiles("s3://bucket/m")
        assert files.read("config.json") == b"{}"
        assert read_object("s3://bucket/m", "config.json") == b"{}"

    def test_without_a_region_the_bucket_is_asked(self, far, monkeypatch):
        monkeypatch.delenv("AWS_REGION")
        assert set(ObjectFiles("s3://bucket/m").sizes) == set(MODEL)
        assert not any("us-east-1" in head for head in far.heads)

    def test_where_nobody_says_which_region_it_is_the_variable_is_named(self, far):
        far.faults = far.faults[1:]
        assert str(refusal("s3://bucket/m")) == (
            "model.unreachable: s3://bucket/m cannot be read: its bucket is in another region. "
            "Set AWS_REGION to the region of the bucket."
        )


class TestCredentials:
    """The chain of AWS's own programs."""

    @pytest.fixture(autouse=True)
    def no_keys(self, bucket, proxy, monkeypatch):
        put_model(bucket)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    def profile(self, tmp_path, name: str, key: str) -> None:
        with (tmp_path / "credentials").open("a") as file:
            file.write(f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")

    def test_without_any_it_says_where_they_were_looked_for(self):
        error = refusal("s3://bucket/m")
        assert error.code == "model.access-denied"
        assert error.message.startswith("there are no credentials for s3://bucket/m; looked for: AWS_ACCESS_KEY_ID and")
        for name in ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
            assert name in error.message
        assert "AWS_SKIP_SIGNATURE" in error.hint

    def test_half_a_pair_of_keys_is_told(self, monkeypatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        assert "; of the two keys only AWS_SECRET_ACCESS_KEY is set; looked for" in refusal("s3://bucket/m").message

    @pytest.mark.parametrize(("wanted", "key"), [("", "AKDEFAULT"), ("other", "AKOTHER")])
    def test_a_profile_is_used(self, proxy, tmp_path, monkeypatch, wanted, key):
        self.profile(tmp_path, "default", "AKDEFAULT")
        self.profile(tmp_path, "other", "AKOTHER")
        (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n[profile other]\nregion = eu-north-1\n")
        monkeypatch.delenv("AWS_REGION")
        if wanted:
            monkeypatch.setenv("AWS_PROFILE", wanted)
        assert ObjectFiles("s3://bucket/m").read("config.json") == b"{}"
        signed = [head for head in proxy.heads if "Credential=" in head or "credential=" in head]
        assert signed
        assert all(re.search(rf"(?i)credential={key}/\d+/eu-north-1/", head) for head in signed)

    def test_keys_in_variables_come_before_a_profile(self, proxy, tmp_path, monkeypatch):
        self.profile(tmp_path, "default", "AKDEFAULT")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKVARIABLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        ObjectFiles("s3://bucket/m")
        assert "AKVARIABLE" in proxy.heads[-1]

    def test_a_profile_that_does_not_exist_is_named(self, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        error = refusal("s3://bucket/m")
        assert (error.code, error.hint) == ("model.access-denied", "Check AWS_PROFILE and ~/.aws/config")
        assert "nobody" in error.message

    def test_without_the_library_for_profiles_it_says_what_to_install(self, tmp_path, monkeypatch):
        self.profile(tmp_path, "other", "AKOTHER")
        monkeypatch.setenv("AWS_PROFILE", "other")
        monkeypatch.setitem(sys.modules, "botocore.session", None)
        error = refusal("s3://bucket/m")
        assert "AWS_PROFILE=other names whose credentials read s3://bucket" in error.message
        assert "pip install 'lmi-core[aws]'" in error.hint

    def test_who_asks_without_credentials_is_told_so_where_they_are_needed(self, proxy, monkeypatch):
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        proxy.faults = [Fault("list-type", status=403, code="AccessDenied")]
        assert refusal("s3://bucket/m").hint.startswith("AWS_SKIP_SIGNATURE is set")

    def test_a_public_bucket_needs_none(self, proxy, monkeypatch):
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        assert set(ObjectFiles("s3://bucket/m").sizes) == set(MODEL)
        assert not any("authorization:" in head.lower() for head in proxy.heads)


@pytest.mark.parametrize(
    ("url", "text", "hint"),
    [
        ("gs://b/m", "Error performing GET http://metadata.google.internal/token", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://c/m", "Error performing GET http://169.254.169.254/metadata", "AZURE_STORAGE_"),
    ],
)
def test_other_stores_want_other_credentials(url, text, hint):
    error = explained(RuntimeError(text), url, {})
    assert (error.code, error.message) == ("model.access-denied", f"there are no credentials for {url}")
    assert hint in error.hint


def test_certificates_that_cannot_be_read_are_named(bucket, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file")
    assert "AWS_CA_BUNDLE=/no/such/file cannot be read: No such file" in refusal("s3://bucket/m").message


def test_of_a_model_of_140_gigabytes_only_headers_are_read(sparse_store):
    n_shards, n_bytes = 30, 4_666_000_000
    names = [f"model-{number:05}-of-{n_shards:05}.safetensors" for number in range(1, n_shards + 1)]
    for name in names:
        tensors = {f"model.layers.{i}.mlp.up_proj.weight": {"dtype": "BF16", "shape": [1, 1]} for i in range(24)}
        header = json.dumps(tensors).encode()
        with (sparse_store / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(n_bytes)
    files = ObjectFiles("s3://bucket")
    assert sum(files.sizes.values()) == n_shards * n_bytes
    lengths = [struct.unpack("<Q", each)[0] for each in files.read_all([(name, 0, 8) for name in names])]
    headers = files.read_all([(name, 8, n) for name, n in zip(names, lengths, strict=True)])
    assert all(len(json.loads(each)) == 24 for each in headers)
    assert files.n_bytes_read == sum(lengths) + 8 * n_shards < 5_000_000
    assert files.n_requests == 1 + 2 * n_shards
