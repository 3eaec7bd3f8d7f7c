# SPDX-License-Identifier: Apache-2.0
"""What a PyTorch file would import is found without unpickling it, and without reading its tensors."""

import collections
import io
import os
import pickle
import zipfile

import pytest

from lmi.api.errors import Severity
from lmi.artifacts import check, detect
from lmi.artifacts.pickles import MAX_PICKLE_BYTES
from tests.core.layouts import Elsewhere, layout, pickled, write

NAME = "pytorch_model.bin"


class Runs:
    """Unpickled, it would call something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def folder_with(tmp_path, content, name=NAME):
    folder = layout("pickles", tmp_path / "m")
    return write(folder, {name: content})


def told(folder):
    files = Elsewhere(folder)
    here = [(each.code, each.message) for each in check(folder)]
    assert [(each.code, each.message) for each in check(detect(files), files)] == here
    return here


UNSAFE = [
    (Runs(os.system, "true"), "posix.system"),
    (Runs(os.popen, "true"), "os.popen"),
    (Runs(eval, "1"), "__builtin__.eval"),
    ({"a": [1, Runs(exec, "1")]}, "__builtin__.exec"),
]


@pytest.mark.parametrize(("content", "imported"), UNSAFE)
def test_an_archive_whose_pickle_would_run_something_is_refused_by_the_name_it_imports(content, imported, tmp_path):
    (problem,) = check(folder_with(tmp_path, pickled(content)))
    assert (problem.code, problem.severity) == ("weights.pickle-unsafe", Severity.ERROR)
    assert problem.message == (f"loading {NAME} (archive/data.pkl) would import {imported}, which can run any command")


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_every_protocol_is_searched(protocol, tmp_path):
    folder = folder_with(tmp_path, pickle.dumps({"a": Runs(os.system, "true")}, protocol))
    ((code, message),) = told(folder)
    assert (code, message) == (
        "weights.pickle-unsafe", f"loading {NAME} would import posix.system, which can run any command",
    )  # fmt: skip


def test_a_second_pickle_in_a_file_or_an_archive_is_searched_too(tmp_path):
    bad = pickle.dumps(Runs(os.system, "true"), 2)
    assert told(folder_with(tmp_path, pickle.dumps(1, 2) + bad))[0][0] == "weights.pickle-unsafe"
    target = io.BytesIO(pickled())
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("archive/OTHER.PKL", bad)
    assert told(folder_with(tmp_path, target.getvalue()))[0][0] == "weights.pickle-unsafe"


def test_several_imports_are_named_and_the_rest_counted(tmp_path):
    functions = [os.system, os.remove, os.rmdir, os.mkdir, os.kill]
    ((_, message),) = told(folder_with(tmp_path, pickled([Runs(each, "x") for each in functions])))
    assert "would import posix.kill, posix.mkdir, posix.remove and 2 more, which" in message


def test_what_is_more_than_tensors_is_a_warning(tmp_path):
    (problem,) = check(folder_with(tmp_path, pickled(Runs(zipfile.ZipInfo, "x"))))
    assert (problem.code, problem.severity) == ("weights.pickle-unknown", Severity.WARNING)
    assert "needs zipfile.ZipInfo, which is refused" in problem.message
    assert told(folder_with(tmp_path, pickled(collections.OrderedDict(a=1)))) == []


def test_pickles_that_are_not_loaded_are_not_judged(tmp_path):
    folder = layout("pretrained", tmp_path / "m")
    write(folder, {NAME: pickled(Runs(os.system, "true")), "training_args.bin": pickled(Runs(os.system, "true"))})
    assert told(folder) == []


@pytest.mark.parametrize("name", ["ranked", "neuron_split", "neuron_old"])
def test_pieces_of_split_and_ranked_weights_are_searched(name, tmp_path):
    folder = layout(name, tmp_path / "m")
    write(folder, {detect(folder).weight_files[0]: pickled(Runs(os.system, "true"))})
    assert [code for code, _ in told(folder)] == ["weights.pickle-unsafe"]


def encrypted(data):
    """The same archive, whose entries say that they are encrypted."""
    changed = bytearray(data)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(mark)
        while at >= 0:
            changed[at + place] |= 1
            at = changed.find(mark, at + 1)
    return bytes(changed)


def bomb():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(b"\x00" * (64 << 20), 2))
    return target.getvalue()


def archive_of(names):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps({}, 2))
    return target.getvalue()


REFUSED = [
    (b"\x00" * 64, "weights.unreadable", "is neither an archive nor a pickle"),
    (b"PK\x03\x04" + bytes(100), "weights.truncated", "stops before its end, at 104 bytes"),
    (pickled()[:-10], "weights.truncated", "stops before its end"),
    (pickled().replace(b"\x80\x02", b"\x80\x03", 1), "weights.unreadable", "Bad CRC-32"),
    (encrypted(pickled()), "weights.unreadable", "is encrypted"),
    (archive_of(["a/data/0"]), "weights.unreadable", "the archive has no data.pkl"),
    (archive_of([f"a/{i}.pkl" for i in range(9)]), "weights.unreadable", "the archive has 9 pickles"),
    (b"\x80\x04\x8c\x02os" + b"\x94" * 300 + b"\x93.", "weights.unreadable", "such as no program writes"),
    (b"\x80\x04\x93.", "weights.unreadable", "is a pickle that cannot be followed"),
    (bomb(), "weights.pickle-not-searched", f"only the first {MAX_PICKLE_BYTES} bytes"),
]


@pytest.mark.parametrize(("content", "code", "message"), REFUSED)
def test_what_cannot_be_searched_is_refused_with_the_reason(content, code, message, tmp_path):
    ((found, text),) = told(folder_with(tmp_path, content))
    assert (found, message in text) == (code, True), text


def test_many_files_elsewhere_are_not_all_searched_and_that_is_said(tmp_path):
    folder = layout("pickles", tmp_path / "m")
    names = [f"pytorch_model-{i:05}-of-00050.bin" for i in range(1, 51)]
    (folder / NAME).unlink()
    write(folder, {"pytorch_model.bin.index.json": {"weight_map": {name: name for name in names}}})
    write(folder, dict.fromkeys(names, pickled()))
    assert check(folder) == []
    files = Elsewhere(folder)
    (problem,) = check(detect(files), files)
    assert (problem.code, problem.severity) == ("weights.pickle-not-searched", Severity.WARNING)
    assert problem.message == "10 of 50 PyTorch files were not searched for dangerous imports"


@pytest.mark.parametrize("is_old", [False, True])
def test_of_ten_gigabytes_only_directory_and_pickle_are_read(is_old, tmp_path):
    folder = layout("pickles", tmp_path / "m")
    whole = folder / NAME
    n_bytes = 10 << 30
    if is_old:
        parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Runs(os.system, "true"), [])
        whole.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
        os.truncate(whole, n_bytes)
    else:
        write_sparse_archive(whole, pickle.dumps(Runs(os.system, "true"), 2), n_bytes)
    files = Elsewhere(folder)
    assert [each.code for each in check(detect(files), files)] == ["weights.pickle-unsafe"]
    assert [each.code for each in check(folder)] == ["weights.pickle-unsafe"]
    assert files.n_bytes < 4 << 20


def write_sparse_archive(path, data, n_bytes):
    """An archive with a pickle and a stored entry of many zeros, which take no room."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        info = zipfile.ZipInfo("archive/data/0")
        info.file_size = info.compress_size = n_bytes
        info.CRC, info.header_offset = 0, archive.fp.tell()
        archive.fp.write(info.FileHeader(zip64=True))
        archive.fp.seek(n_bytes, os.SEEK_CUR)
        archive.start_dir = archive.fp.tell()
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info
        archive._didModify = True


def test_files_that_pytorch_itself_writes_have_no_problems(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "a": torch.zeros(8, 8, dtype=torch.bfloat16), "b": torch.nn.Parameter(torch.zeros(3)),
        "c": torch.zeros(2, dtype=torch.int8), "d": torch.zeros(4, dtype=torch.float16).t(),
    }  # fmt: skip
    folder = layout("pickles", tmp_path / "m")
    for is_archive in (True, False):
        torch.save(tensors, folder / NAME, _use_new_zipfile_serialization=is_archive)
        assert told(folder) == []
        torch.save({"a": Runs(os.system, "true")}, folder / NAME, _use_new_zipfile_serialization=is_archive)
        assert [code for code, _ in told(folder)] == ["weights.pickle-unsafe"]
