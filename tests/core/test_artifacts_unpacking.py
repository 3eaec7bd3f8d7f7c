# SPDX-License-Identifier: Apache-2.0
"""Unpacking: whole or not at all, and never beyond the folder or beyond measure."""

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lmi.api import ArtifactError
from lmi.artifacts.places.archive_entries import corrupt
from lmi.artifacts.places.unpacking import Limits, extract
from tests.core.archive_files import DEVICE, FIFO, FOLDER, LINK, SAME, found, tar, zipped


def refused(archive, to, limits=Limits()):  # noqa: B008 - frozen
    with pytest.raises(ArtifactError) as caught:
        extract(archive, to, limits=limits)
    assert sorted(path.name for path in to.parent.iterdir()) == [archive.name], "something was left"
    return str(caught.value)


# what is unpacked


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_unpacked_whatever_its_name(tmp_path, mode):
    archive = tar(tmp_path / "any", ("./", FOLDER), ("./a", b"1"), ("b/c", b"2"), ("empty", FOLDER), mode=mode)
    told = []
    extract(archive, tmp_path / "to", lambda stage, fraction=None: told.append((stage, fraction)))
    assert found(tmp_path / "to") == {"a": b"1", "b/c": b"2"}
    assert (tmp_path / "to/empty").is_dir()
    assert told[-1][0] == "unpack"
    assert 0 < told[-1][1] <= 1


def test_a_zip_is_unpacked(tmp_path):
    archive = zipped(tmp_path / "model.zip", ("b/", b""), ("b/c", b"2" * 3_000_000), ("a", b"1"))
    extract(archive, tmp_path / "to")
    assert found(tmp_path / "to") == {"a": b"1", "b/c": b"2" * 3_000_000}


def test_links_inside_are_made_and_the_bits_of_the_archive_are_not(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as content:
        for name, mode in (("blobs/x", 0o6777), ("blobs/y", 0o600)):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = 1, mode, 12345
            content.addfile(info, io.BytesIO(b"1"))
    with tarfile.open(archive, "a") as content:
        for name, kind, target in (("snapshots/m", LINK, "../blobs/x"), ("twin", SAME, "blobs/y")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            content.addfile(info)
    extract(archive, tmp_path / "to")
    assert (tmp_path / "to/snapshots/m").read_bytes() == b"1"
    assert (tmp_path / "to/twin").samefile(tmp_path / "to/blobs/y")
    modes = [stat.S_IMODE((tmp_path / "to/blobs" / name).stat().st_mode) for name in ("x", "y")]
    assert modes[0] & 0o7111 == 0o111
    assert modes[1] & 0o7111 == 0


# what is refused

UNSAFE = {
    "absolute": (("/etc/x", b"1"),),
    "parent": (("../x", b"1"),),
    "parent inside": (("a/../../x", b"1"),),
    "drive": (("C:/x", b"1"),),
    "empty": (("", b"1"),),
    "backslash": (("..\\x", b"1"),),
    "twice": (("a", b"1"), ("a", b"2")),
    "twice, spelt otherwise": (("a", b"1"), ("./a", b"2")),
    "case": (("Model", b"1"), ("model", b"2")),
    "case of a folder": (("A/x", b"1"), ("a/y", b"2")),
    "accents": (("caf\u00e9", b"1"), ("cafe\u0301", b"2")),
    "below a file": (("a", b"1"), ("a/b", b"2")),
    "a file where a folder is": (("a/b", b"1"), ("a", b"2")),
    "too deep": (("a/" * 65 + "x", b"1"),),
    "a name that would fill the memory": (("a/" * 20_000 + "x", b"1"),),
}
UNSAFE_TARS = {
    **UNSAFE,
    "a link out": (("a", LINK, "../x"),),
    "an absolute link": (("a", LINK, "/etc/passwd"),),
    "a link with a target without end": (("a", LINK, "b/../" * 10_000 + "b"),),
    "a link out through a folder": (("d/a", LINK, "../../x"),),
    "a link out through a link": (("d/e/x", b"1"), ("l", LINK, "d/e"), ("m", LINK, "l/../../../x")),
    "a link out by way of links": (("a/b/c/x", b"1"), ("s", LINK, "a/b/c"), ("s2/t", LINK, "../s/../../../..")),
    "a file through a link": (("a", LINK, "."), ("a/b", b"1")),
    "a file through a link into a folder": (("d", FOLDER), ("a", LINK, "d"), ("a/b", b"1")),
    "a link to nothing": (("a", LINK, ""),),
    "a hard link out": (("a", SAME, "/etc/passwd"),),
    "a hard link to the parent": (("a", SAME, "../x"),),
    "a hard link to what comes later": (("a", SAME, "b"), ("b", b"1")),
    "a hard link to itself": (("d/a", SAME, "d/a"),),
    "a hard link to a link": (("b", LINK, "c"), ("a", SAME, "b")),
    "a pipe": (("a", FIFO),),
    "a device": (("a", DEVICE),),
    "too long": (("x" * 300, b"1"),),
}


@pytest.mark.parametrize("entries", UNSAFE_TARS.values(), ids=UNSAFE_TARS)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_unsafe_is_refused_and_nothing_is_left(tmp_path, entries, mode):
    archive = tar(tmp_path / "a.tar", *entries, mode=mode)
    message = refused(archive, tmp_path / "to")
    assert message.startswith(f"archive.unsafe: {archive} has an entry ")
    assert "nothing was unpacked" in message


UNSAFE_ZIPS = {
    **UNSAFE,
    "a link out": (("a", "../x", stat.S_IFLNK | 0o777),),
    "an absolute link": (("a", "/etc/passwd", stat.S_IFLNK | 0o777),),
    "a pipe": (("a", "", stat.S_IFIFO | 0o644),),
}


@pytest.mark.parametrize("entries", UNSAFE_ZIPS.values(), ids=UNSAFE_ZIPS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_is_unsafe_is_refused_and_nothing_is_left(tmp_path, entries):
    archive = zipped(tmp_path / "a.zip", *entries)
    assert refused(archive, tmp_path / "to").startswith(f"archive.unsafe: {archive} has an entry ")


def test_the_message_names_the_entry_and_what_is_wrong_with_it(tmp_path):
    archive = tar(tmp_path / "a.tar", ("../x", b"1"))
    assert refused(archive, tmp_path / "to") == (
        f"archive.unsafe: {archive} has an entry '../x' that leads out of its folder; nothing was unpacked. "
        "Pack it again from inside the model's folder: tar -czf FILE *."
    )


def test_a_message_has_no_more_of_a_name_than_is_needed(tmp_path):
    message = refused(tar(tmp_path / "a.tar", ("x" * 5000, b"1")), tmp_path / "to")
    assert "xxx'... that has 5000 characters in its name, more than 1024; nothing was unpacked" in message
    assert len(message) < 500


def test_a_file_outside_is_never_touched(tmp_path):
    (tmp_path / "in").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    archive = tar(tmp_path / "in/a.tar", ("l", LINK, "../../victim"), ("l", b"theirs"))
    refused(archive, tmp_path / "in/to")
    assert victim.read_bytes() == b"mine"


# how much


def test_an_archive_that_grows_beyond_measure_is_stopped(tmp_path):
    limits = Limits(any_bytes=1 << 16, ratio=10)
    bomb = b"\0" * (4 << 20)
    archive = tar(tmp_path / "a.tar.gz", ("a", bomb), mode="w:gz")
    size = archive.stat().st_size
    assert refused(archive, tmp_path / "to", limits) == (
        f"archive.too-large: {archive} has {size} bytes and comes to more than {1 << 16}; nothing was unpacked. "
        "Unpack it yourself and name the folder."
    )
    archive.unlink()
    archive = zipped(tmp_path / "a.zip", ("a", bomb))
    assert refused(archive, tmp_path / "to", limits).startswith("archive.too-large")


def test_padding_without_an_entry_counts_too(tmp_path):
    plain = tar(tmp_path / "plain", ("a", b"1")).read_bytes()
    (tmp_path / "plain").unlink()
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(plain + b"\0" * (4 << 20)))
    assert refused(archive, tmp_path / "to", Limits(any_bytes=1 << 16, ratio=10)).startswith("archive.too-large")


def test_a_file_with_holes_counts_with_its_holes(tmp_path):
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(8 << 20)
    archive = tmp_path / "a.tar"
    done = subprocess.run(["tar", "--sparse", "-cf", str(archive), "-C", str(tmp_path), "hole"], check=False)
    if done.returncode or archive.stat().st_size > 1 << 16:
        pytest.skip("this tar, or this file system, knows no holes")
    hole.unlink()
    message = refused(archive, tmp_path / "to", Limits(any_bytes=1 << 20, ratio=1))
    assert message.startswith("archive.too-large")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"a" * (64 << 20), compresslevel=1))
    assert "a header of" in refused(archive, tmp_path / "to")


def test_too_many_entries_are_refused_with_both_numbers(tmp_path):
    archive = tar(tmp_path / "a.tar", *((f"f{i}", b"") for i in range(12)))
    extract(archive, tmp_path / "to", limits=Limits(n_entries=12))
    (tmp_path / "to").rename(tmp_path.parent / f"{tmp_path.name}-kept")
    message = refused(archive, tmp_path / "to", Limits(n_entries=11))
    assert message.startswith(f"archive.too-large: {archive} has more than 11 entries")


def test_a_disk_with_too_little_room_is_told_before_it_is_full(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", ("a", b"1" * 5000))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4999}))
    assert refused(archive, tmp_path / "to") == (
        f"model.disk-full: {archive} does not fit on the disk: {tmp_path} had 4999 bytes free; nothing was unpacked. "
        "Free some space, or set LMI_CACHE_DIR to a folder on a larger disk."
    )


def test_a_disk_that_fills_on_the_way_is_told_the_same_way(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", ("a", b"1"))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    assert refused(archive, tmp_path / "to").startswith("model.disk-full")


# what is damaged


def _truncated(data, share):
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", ["w", "w:gz", "zip"])
def test_an_archive_that_was_cut_off_is_corrupt_wherever_it_was_cut(tmp_path, form, share):
    contents = [(f"f{i}", os.urandom(3000)) for i in range(5)]
    archive = tmp_path / "a"
    if form == "zip":
        zipped(archive, *contents)
    else:
        tar(archive, *contents, mode=form)
    data = archive.read_bytes().rstrip(b"\0") + (b"\0" * 1024 if form == "w" else b"")
    archive.write_bytes(_truncated(data, share if form != "w" or share < 0.99 else 0.93))
    message = refused(archive, tmp_path / "to")
    assert message.startswith(f"archive.corrupt: {archive} cannot be unpacked: ")
    assert message.endswith("Copy or pack it again; it may have been cut off.")


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\x1f\x8b", b"PK\x03\x04", b"PK" * 600])
def test_what_is_no_archive_is_corrupt(tmp_path, content):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    assert refused(archive, tmp_path / "to").startswith("archive.corrupt")


def test_a_checksum_behind_the_last_file_is_looked_at(tmp_path):
    archive = tar(tmp_path / "a.tar.gz", ("a", b"1"), mode="w:gz")
    data = bytearray(archive.read_bytes())
    data[-6] ^= 1
    archive.write_bytes(bytes(data))
    assert refused(archive, tmp_path / "to").startswith("archive.corrupt")


def test_an_encrypted_zip_is_told_as_such(tmp_path):
    archive = zipped(tmp_path / "a.zip", ("a", b"1"))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))
    assert refused(archive, tmp_path / "to") == (
        f"archive.encrypted: {archive} is encrypted: 'a'. Pack it again without a password."
    )


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!", "RAR")],
)
def test_another_way_of_packing_is_named(tmp_path, start, name):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(start + b"\0" * 100)
    assert refused(archive, tmp_path / "to").startswith(f"archive.unsupported: {archive} is packed with {name}, ")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python can unpack it")
def test_zstandard_says_which_python_can(tmp_path):
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 20)
    assert "only Python 3.14 and later" in refused(archive, tmp_path / "to")


def test_an_error_in_several_lines_is_told_in_one():
    assert str(corrupt(Path("a"), ValueError("one\ntwo"))).startswith(
        "archive.corrupt: a cannot be unpacked: ValueError: one two."
    )


# anything at all

_PARTS = st.sampled_from(["a", "b", "A", "..", ".", "", "C:", "x\\y", "e\u0301", "\u00e9", "~"])
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_TYPES = st.sampled_from([tarfile.REGTYPE, LINK, SAME, FOLDER, FIFO, DEVICE])
_ENTRIES = st.lists(st.tuples(_NAMES, _TYPES, _NAMES, st.binary(max_size=3)), max_size=8)
_FEW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _judged(data, name):
    """Unpack in a folder of its own, and see that nothing came to be, or leads, outside."""
    with tempfile.TemporaryDirectory() as room:
        outer = Path(room).resolve()
        archive = outer / name
        archive.write_bytes(data)
        try:
            extract(archive, outer / "to")
        except ArtifactError as error:
            assert error.code.startswith("archive.")
            assert {path.name for path in outer.iterdir()} == {name}
            return
        assert {path.name for path in outer.iterdir()} == {name, "to"}
        for path in (outer / "to").rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(outer / "to")


@_FEW
@given(_ENTRIES)
def test_no_tar_of_any_names_and_kinds_leaves_its_folder(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    _judged(file.getvalue(), "a.tar")


@_FEW
@given(st.lists(st.tuples(_NAMES, st.sampled_from([0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR]), _NAMES), max_size=8))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_zip_of_any_names_and_kinds_leaves_its_folder(entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, kind, content in entries:
            info = zipfile.ZipInfo()
            info.filename, info.external_attr = name, (kind | 0o644) << 16
            with archive.open(info, "w") as opened:
                opened.write(content.encode())
    _judged(file.getvalue(), "a.zip")


@_FEW
@given(st.integers(0, 2**16), st.integers(0, 255), st.sampled_from(["w", "w:gz", "zip"]))
def test_a_damaged_byte_is_no_traceback_and_no_escape(at, value, form):
    file = io.BytesIO()
    if form == "zip":
        zipped(file, ("a", b"12345"), ("b/c", b"x" * 600))
    else:
        with tarfile.open(fileobj=file, mode=form) as archive:
            for name, content in (("a", b"12345"), ("b/c", b"x" * 600)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    data = bytearray(file.getvalue())
    data[at % len(data)] = value
    _judged(bytes(data), "a.any")
