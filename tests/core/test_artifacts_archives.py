# SPDX-License-Identifier: Apache-2.0
"""Archives: unpacked once into the cache, a zip seen where it is, and names that are no danger."""

import os
import subprocess
import sys

import pytest

from lmi.api import ArtifactError
from lmi.artifacts.places.archives import ZipFiles, extracted, is_archive
from lmi.artifacts.places.names import inside, safe_name
from tests.core.archive_files import found, tar, zipped
from tests.core.model_folders import write_model
from tests.limits import limit_s


def environ_of(tmp_path):
    return {"LMI_CACHE_DIR": str(tmp_path / "cache")}


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("model.tar.gz", True), ("model.tgz", True), ("model.tar", True), ("MODEL.ZIP", True),
        ("https://host/model.tar.gz?signature=1", True), ("model.tar.zst", True), ("model.gz", False), ("tar", False),
    ],
)  # fmt: skip
def test_archives_are_known_by_their_names(name, is_one):
    assert is_archive(name) is is_one


# once


def test_an_archive_is_unpacked_once_and_again_when_it_changed(tmp_path):
    archive = tar(tmp_path / "a.tar", ("a", b"1"))
    first = extracted(archive, environ_of(tmp_path))
    (first / "a").write_bytes(b"kept")
    assert extracted(archive, environ_of(tmp_path)) == first
    assert (first / "a").read_bytes() == b"kept"
    tar(archive, ("a", b"2"))
    os.utime(archive, ns=(1, 1))
    second = extracted(archive, environ_of(tmp_path))
    assert second != first
    assert found(second) == {"a": b"2"}


def test_what_a_killed_process_left_is_not_taken_for_the_whole(tmp_path):
    archive = tar(tmp_path / "a.tar", ("a", b"1"))
    folder = extracted(archive, environ_of(tmp_path))
    partial = folder.with_name(folder.name + ".partial")
    folder.rename(partial)
    (partial / "a").write_bytes(b"half")
    (partial / "left").write_bytes(b"over")
    assert found(extracted(archive, environ_of(tmp_path))) == {"a": b"1"}
    assert not partial.exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    archive = tar(tmp_path / "a.tar", ("a", b"1"))
    (tmp_path / "cache").write_bytes(b"a file where the cache should be")
    with pytest.raises(ArtifactError) as caught:
        extracted(archive, environ_of(tmp_path))
    assert str(caught.value).startswith(f"archive.not-unpacked: {archive} could not be unpacked: ")
    assert "LMI_CACHE_DIR" in str(caught.value)


UNPACK = """
import os, sys, time
from pathlib import Path
from lmi.artifacts.places import archives
extract = archives.extract
def counted(archive, folder, progress):
    with open(sys.argv[2], "a") as file:
        file.write("x")
    time.sleep(0.3)  # so that the other one comes while this one is at it
    extract(archive, folder, progress)
archives.extract = counted
print(sorted(path.name for path in archives.extracted(Path(sys.argv[1]), os.environ).iterdir()))
"""


def test_two_processes_that_start_at_once_unpack_once(tmp_path):
    archive = tar(tmp_path / "a.tar", ("a", b"1"), ("b", b"2"))
    count = tmp_path / "count"
    command = [sys.executable, "-c", UNPACK, str(archive), str(count)]
    environ = {**os.environ, **environ_of(tmp_path)}
    running = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate(timeout=limit_s(60))[0].strip() for each in running] == ["['a', 'b']"] * 2
    assert count.read_text() == "x"


# a zip that is seen where it is


def seen(archive, asked=None):
    data = archive.read_bytes()

    def read_part(start, n_bytes):
        if asked is not None:
            asked.append(n_bytes)
        return data[start : start + n_bytes]

    return ZipFiles(f"https://host/{archive.name}", read_part, len(data))


def test_the_files_of_a_zip_are_read_by_its_directory_alone(tmp_path):
    folder = write_model(tmp_path / "model")
    entries = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    archive = zipped(tmp_path / "a.zip", *entries, ("z.bin", os.urandom(2_000_000)), (".hidden", b"x"))
    asked = []
    files = seen(archive, asked)
    assert files.sizes == {**{name: len(content) for name, content in entries}, "z.bin": 2_000_000}
    assert files.json("config.json")["model_type"] == "llama"
    assert files.read("tokenizer.json", 2, 3) == dict(entries)["tokenizer.json"][2:5]
    assert files.at("z.bin") == "https://host/a.zip/z.bin"
    assert not files.is_here
    assert sum(asked) < 500_000


@pytest.mark.parametrize(("name", "code"), [("../x", "archive.unsafe"), ("/x", "archive.unsafe")])
def test_a_zip_with_unsafe_names_is_not_even_seen(tmp_path, name, code):
    with pytest.raises(ArtifactError) as caught:
        seen(zipped(tmp_path / "a.zip", (name, b"1")))
    assert caught.value.code == code


def test_a_damaged_zip_that_is_elsewhere_is_corrupt_or_cannot_be_read(tmp_path):
    archive = zipped(tmp_path / "a.zip", ("a", b"12345" * 100))
    data = bytearray(archive.read_bytes())
    archive.write_bytes(data[:-10])
    with pytest.raises(ArtifactError, match=r"archive\.corrupt"):
        seen(archive)
    data[40] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(OSError, match=r"a\.zip/a cannot be read"):
        seen(archive).read("a")


# names


@pytest.mark.parametrize(
    ("name", "safe"), [("a", "a"), ("./a//b/", "a/b"), ("a b.txt", "a b.txt"), (".hidden", ".hidden"), ("a..b", "a..b")]
)
def test_a_name_that_stays_inside_is_kept(tmp_path, name, safe):
    assert safe_name(name) == safe
    assert inside(tmp_path, name) == (tmp_path / safe).resolve()


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/../..", "/etc", "C:\\x", "c:x", "a\\b", "a\0b"])
def test_a_name_that_does_not_is_refused(tmp_path, name):
    for call in (lambda: safe_name(name), lambda: inside(tmp_path, name)):
        with pytest.raises(ArtifactError, match=r"artifacts\.unsafe-name: the name "):
            call()


def test_a_link_that_leads_out_is_refused(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "round").symlink_to("round")
    for name, reason in (("out", "is a link to"), ("out/x", "is a link to"), ("round", "cannot be followed")):
        with pytest.raises(ArtifactError, match=reason):
            inside(folder, name)
