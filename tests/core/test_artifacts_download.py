# SPDX-License-Identifier: Apache-2.0
"""Files of an object store arrive whole and once, whatever the network, the store, the disk and the process do."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.api import ArtifactError
from lmi.api.folders import cache_root
from lmi.artifacts.places.download import download
from lmi.artifacts.places.objects import ObjectFiles
from tests.buckets import Bucket
from tests.core.fetching import (
    BIG,
    CHUNK,
    KIB,
    MODEL,
    PART,
    URL,
    contents,
    fetch,
    finished,
    model_behind_proxy,
    refusal,
)
from tests.proxies import Fault, Proxy


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with model_behind_proxy(bucket, monkeypatch) as found:
        yield found


def test_files_arrive_with_their_names_and_a_second_time_nothing_is_asked_for(proxy, tmp_path):
    seen: list[float] = []
    files = ObjectFiles(URL)
    folder = download(files, list(files.sizes), root=tmp_path, progress=lambda stage, part: seen.append(part))
    assert contents(folder) == MODEL
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert (folder.parent / "place.txt").read_text() == f"{URL}\n"
    proxy.clear()
    assert (download(files, list(files.sizes), root=tmp_path), proxy.requests) == (folder, [])


def test_only_what_is_wanted_arrives(proxy, tmp_path):
    folder = fetch(tmp_path, ["config.json"])
    assert contents(folder) == {"config.json": b"{}"}
    assert proxy.bytes_of("model.bin") == []
    proxy.clear()
    assert contents(fetch(tmp_path)) == MODEL
    assert proxy.bytes_of("config.json") == []
    assert contents(folder) == {"config.json": b"{}"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("model.bin", cut_after_bytes=150 * KIB, times=5),
        Fault("model.bin", status=503, code="SlowDown", times=4),
        Fault("model.bin", status=500, times=3),
        Fault("model.bin", status=429, code="TooManyRequests", times=2),
        Fault("model.bin", cut_after_bytes=0, times=3),
    ],
    ids=["cut", "slow-down", "internal-error", "too-many", "cut-at-once"],
)
def test_what_passes_costs_no_more_than_a_repetition(proxy, tmp_path, fault):
    proxy.faults = [fault]
    assert contents(fetch(tmp_path)) == MODEL
    assert fault.n_done == fault.times


def test_after_a_cut_a_part_goes_on_where_it_was(proxy, tmp_path):
    proxy.faults = [Fault("model.bin", cut_after_bytes=150 * KIB, times=1)]
    assert contents(fetch(tmp_path)) == MODEL
    starts = sorted(int(each.split("-")[0]) for each in proxy.bytes_of("model.bin"))
    assert len(starts) == 5
    [again] = [start for start in starts if start % PART]
    assert CHUNK <= again % PART <= 150 * KIB
    assert proxy.n_body_bytes - len(BIG) < CHUNK + 4 * KIB


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [(403, "AccessDenied", "model.access-denied"), (404, "NoSuchKey", "model.not-found")],
)
def test_what_stays_is_told_at_once(proxy, tmp_path, status, code, told):
    proxy.faults = [Fault("config.json", status=status, code=code)]
    error = refusal(tmp_path)
    assert error.code == told
    assert f"{URL}/config.json" in error.message
    assert len(proxy.bytes_of("config.json")) == 1


def test_a_store_that_fails_for_too_long_is_given_up(proxy, tmp_path):
    proxy.faults = [Fault("model.bin", status=503, code="SlowDown")]
    error = refusal(tmp_path, patience_s=0.5)
    assert error.code == "model.unreachable"
    assert f"{URL}/model.bin cannot be read: the store answers 503 SlowDown" in error.message
    assert len(proxy.bytes_of("model.bin")) > 4
    proxy.clear()
    assert contents(fetch(tmp_path)) == MODEL
    assert proxy.bytes_of("config.json") == []


class TestDamage:
    """A file is compared with what its ETag says, as far as that says anything."""

    def test_a_byte_that_changes_on_its_way_is_fetched_again(self, proxy, tmp_path, caplog):
        proxy.faults = [Fault("model.bin", flip=77, times=1)]
        assert contents(fetch(tmp_path)) == MODEL
        assert f"{URL}/model.bin arrived damaged; it is fetched again" in caplog.text

    def test_a_file_that_arrives_damaged_again_and_again_is_refused(self, bucket, proxy, tmp_path):
        bucket.put("m/model.bin", BIG, ServerSideEncryption="AES256")
        proxy.faults = [Fault("model.bin", flip=77)]
        error = refusal(tmp_path)
        assert error.code == "model.damaged"
        assert f"{URL}/model.bin arrived damaged 3 times: its MD5 is " in error.message
        assert len(proxy.bytes_of("model.bin")) == 3 * 4

    def test_an_etag_that_is_no_md5_refuses_no_good_file(self, proxy, tmp_path, caplog):
        etag = ObjectFiles(URL).versions["model.bin"].etag.strip('"')
        proxy.other_etags = {etag: "0123456789abcdef" * 2}
        assert contents(fetch(tmp_path)) == MODEL
        assert "was read so twice; it is taken" in caplog.text

    def test_an_etag_that_is_no_md5_refuses_no_empty_file(self, bucket, proxy, tmp_path, caplog):
        proxy.other_etags = {"d41d8cd98f00b204e9800998ecf8427e": "0123456789abcdef" * 2}
        assert contents(fetch(tmp_path, ["empty"])) == {"empty": b""}
        assert "was read so twice; it is taken" in caplog.text

    def test_a_public_object_with_an_etag_that_is_no_md5_is_fetched_without_credentials(
        self, bucket, proxy, tmp_path, monkeypatch
    ):
        bucket.put("m/config.json", b"{}", ACL="public-read")
        bucket.delete("m/empty")
        etag = ObjectFiles(URL).versions["config.json"].etag.strip('"')
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        proxy.other_etags = {etag: "0123456789abcdef" * 2}
        assert contents(fetch(tmp_path, ["config.json"])) == {"config.json": b"{}"}

    def test_an_object_encrypted_with_a_key_of_its_own_is_read_once(self, bucket, proxy, tmp_path, caplog):
        bucket.put("m/model.bin", BIG, ServerSideEncryption="aws:kms")
        etag = ObjectFiles(URL).versions["model.bin"].etag.strip('"')
        proxy.other_etags = {etag: "0123456789abcdef" * 2}
        assert contents(fetch(tmp_path)) == MODEL
        assert (len(proxy.bytes_of("model.bin")), caplog.text) == (4, "")

    def test_without_an_md5_the_header_of_safetensors_is_compared_with_the_size(self, bucket, proxy, tmp_path, caplog):
        content = safetensors(5 * 1024 * KIB)
        bucket.put_in_parts("m/model.safetensors", [content[: 5 << 20], content[5 << 20 :]])
        assert ObjectFiles(URL).versions["model.safetensors"].etag.endswith('-2"')
        proxy.faults = [Fault("model.safetensors", flip=3, times=1, when="bytes=0-")]
        assert fetch(tmp_path, ["model.safetensors"]).joinpath("model.safetensors").read_bytes() == content
        assert "arrived damaged" in caplog.text

    def test_a_file_that_is_damaged_where_it_comes_from_is_left_to_the_checks(self, bucket, proxy, tmp_path):
        content = safetensors(100)[:-1]
        bucket.put("m/model.safetensors", content)
        assert fetch(tmp_path, ["model.safetensors"]).joinpath("model.safetensors").read_bytes() == content


def safetensors(n_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(n_bytes)


class TestChange:
    """What is listed, fetched and kept belongs together."""

    def test_a_file_that_changes_while_it_is_fetched_ends_the_fetching(self, bucket, proxy, tmp_path):
        files = ObjectFiles(URL)
        other = BIG[::-1]
        bucket.put("m/model.bin", other)
        with pytest.raises(ArtifactError) as caught:
            download(files, list(files.sizes), root=tmp_path)
        assert str(caught.value) == (
            f"model.changed: {URL}/model.bin was changed while the model was read. "
            "Start again when nobody writes there any more."
        )
        assert finished(tmp_path) == []
        assert contents(fetch(tmp_path)) == {**MODEL, "model.bin": other}

    def test_of_a_changed_model_only_what_changed_is_fetched(self, bucket, proxy, tmp_path):
        before = fetch(tmp_path)
        bucket.put("m/config.json", b"[]")
        bucket.delete("m/empty")
        proxy.clear()
        after = fetch(tmp_path)
        assert contents(after) == {**{name: MODEL[name] for name in MODEL if name != "empty"}, "config.json": b"[]"}
        assert contents(before) == MODEL
        assert (proxy.bytes_of("model.bin"), len(proxy.bytes_of("config.json"))) == ([], 1)
        assert (before / "model.bin").samefile(after / "model.bin")

    def test_a_file_that_somebody_cut_is_fetched_again(self, proxy, tmp_path):
        folder = fetch(tmp_path)
        with (folder / "model.bin").open("r+b") as file:
            file.truncate(10)
        assert contents(fetch(tmp_path)) == MODEL

    def test_what_no_folder_needs_is_removed(self, proxy, tmp_path):
        folder = fetch(tmp_path)
        shutil.rmtree(folder)
        fetch(tmp_path, ["config.json"])
        assert len(list((folder.parent / "blobs").iterdir())) == 1

    def test_without_hard_links_the_folder_has_others(self, proxy, tmp_path, monkeypatch):
        def refuses(*_: object) -> None:
            raise OSError(errno.EPERM, "no links")

        monkeypatch.setattr(Path, "hardlink_to", refuses)
        folder = fetch(tmp_path)
        fetch(tmp_path, ["config.json"])
        assert contents(folder) == MODEL
        proxy.clear()
        assert (fetch(tmp_path), proxy.bytes_of("model.bin")) == (folder, [])


class TestDisk:
    """What the disk refuses is said before, or at once."""

    def test_room_is_looked_for_before_anything_is_fetched(self, proxy, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 3 << 20))
        error = refusal(tmp_path)
        assert str(error) == (
            f"model.disk-full: {URL} needs 1.0 MiB more in {tmp_path}, where 3.0 MiB are free. "
            f"Set LMI_CACHE_DIR to a folder on a larger disk, or delete what is not needed in {tmp_path / 'models'}."
        )
        assert proxy.bytes_of("model.bin") == []

    def test_a_disk_without_room_for_the_folder_is_told_as_full(self, proxy, tmp_path, monkeypatch):
        def refuses(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(Path, "write_text", refuses)
        error = refusal(tmp_path)
        assert error.code == "model.disk-full"
        assert f"{URL} needs more room in {tmp_path}, where " in error.message

    @pytest.mark.parametrize(
        ("number", "code"),
        [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EIO, "cache-unwritable")],
    )
    def test_a_disk_that_fails_on_the_way_is_told_and_what_was_fetched_counts(
        self, proxy, tmp_path, monkeypatch, number, code
    ):
        write, left = os.pwrite, iter(range(6))

        def fails_soon(*given) -> int:
            if next(left, None) is None:
                raise OSError(number, os.strerror(number))
            return write(*given)

        monkeypatch.setattr(os, "pwrite", fails_soon)
        error = refusal(tmp_path)
        assert error.code == f"model.{code}"
        assert (os.strerror(number) in error.message) == (code != "disk-full")
        monkeypatch.setattr(os, "pwrite", write)
        proxy.clear()
        assert contents(fetch(tmp_path)) == MODEL
        assert proxy.n_body_bytes < len(BIG) - 2 * CHUNK

    def test_a_cache_that_cannot_be_written_is_named(self, proxy, tmp_path):
        root = tmp_path / "file"
        root.write_text("")
        with pytest.raises(ArtifactError) as caught:
            fetch(root)
        assert str(caught.value) == (
            f"model.cache-unwritable: {URL} cannot be kept in {root}: Not a directory. "
            "Set LMI_CACHE_DIR to a folder that this user can write."
        )


def test_without_a_terminal_the_log_says_how_fast_it_goes(proxy, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("lmi.artifacts.places.download._LOG_S", 0.2)
    proxy.faults = [Fault("model.bin", pause_s=0.3, piece_bytes=CHUNK)]
    fetch(tmp_path)
    lines = [record.message for record in caplog.records if record.name == "lmi.artifacts.places.download"]
    assert lines[0] == f"fetching 1.0 MiB (4 files) from {URL} to {tmp_path}"
    assert any("% of s3://bucket/m is here, " in line and line.endswith(" MiB/s") for line in lines[1:-1])
    assert lines[-1].startswith(f"fetched {URL} in ")


def test_where_nothing_arrives_the_log_says_why(proxy, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("lmi.artifacts.places.download._LOG_S", 0.2)
    proxy.faults = [Fault("model.bin", status=503, code="SlowDown")]
    refusal(tmp_path, patience_s=1.5)
    [*_, told] = [record.message for record in caplog.records if record.name == "lmi.artifacts.places.download"]
    assert told.startswith("nothing arrived in the last ")
    assert f"{URL}/model.bin cannot be read: the store answers 503 SlowDown" in told


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"LMI_CACHE_DIR": "/a", "SERVING_DOWNLOAD_DIR": "/b", "DJL_CACHE_DIR": "/c"}, "/a"),
        ({"SERVING_DOWNLOAD_DIR": "/b", "DJL_CACHE_DIR": "/c"}, "/b"),
        ({"SERVING_DOWNLOAD_DIR": "default", "DJL_CACHE_DIR": "/c"}, "/c"),
        ({"LMI_CACHE_DIR": "~/a"}, str(Path("~/a").expanduser())),
        ({"LMI_CACHE_DIR": "~no-such-user/a"}, "~no-such-user/a"),
        ({"LMI_CACHE_DIR": " "}, str(Path.home() / ".cache" / "lmi")),
        ({}, str(Path.home() / ".cache" / "lmi")),
    ],
)
def test_the_cache_is_where_the_variables_say(environ, root):
    assert cache_root(environ) == Path(root)
