# SPDX-License-Identifier: Apache-2.0
"""Where a model is looked for, what its id means, and how its files come here from each kind of place."""

import contextlib
import http.server
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from lmi.api import ArtifactError, Severity
from lmi.artifacts import is_local, model_root, refused_location, wanted_files
from lmi.artifacts.formats import detect
from lmi.artifacts.places import web as web_module
from lmi.artifacts.places.files import LocalFiles
from lmi.artifacts.places.finding import NotFetchedError, fetched, place_of
from lmi.artifacts.places.location import wrapped_in
from lmi.artifacts.places.web import WebFiles, WebReadError
from tests.buckets import running_bucket
from tests.core.model_folders import write_model
from tests.hubs import SHA, Repository, started_hub


def locate(model_id, folder=None):
    """The folder of a model that is brought here if it is elsewhere."""
    files = place_of(model_id, None, folder, environ=os.environ)
    return fetched(files, [] if files.is_here else wanted_files(detect(files)), environ=os.environ)


def refused(model_id, folder=None):
    with pytest.raises(ArtifactError) as caught:
        locate(model_id, folder)
    return str(caught.value)


# folders


def test_a_folder_is_used_in_place(tmp_path):
    folder = write_model(tmp_path)
    assert locate(str(folder)) == folder


def test_one_folder_inside_is_the_model_and_hidden_names_do_not_count(tmp_path):
    inner = write_model(tmp_path / "wrapped")
    (tmp_path / ".DS_Store").write_text("")
    assert locate(str(tmp_path)) == inner
    (tmp_path / "serving.properties").write_text("")
    assert locate(str(tmp_path)) == tmp_path


WRAPPED = {
    "one folder": (["in/config.json", "in/1/x"], "in"),
    "only one level": (["a/b/config.json"], "a"),
    "hidden names beside it": (["in/config.json", ".cache/x", ".DS_Store"], "in"),
    "what macOS adds": (["in/config.json", "__MACOSX/in/._config.json"], "in"),
    "a file beside it": (["in/config.json", "README.md"], ""),
    "two folders": (["a/config.json", "b/config.json"], ""),
    "one file": (["config.json"], ""),
    "a compiled repository": (["tensorrt_llm/config.pbtxt", "tensorrt_llm/1/rank0.engine"], ""),
    "a compiled repository in a folder": (["m/tensorrt_llm/config.pbtxt", "m/tensorrt_llm/1/rank0.engine"], "m"),
    "nothing": ([], ""),
}


@pytest.mark.parametrize(("names", "inner"), WRAPPED.values(), ids=WRAPPED)
def test_a_folder_and_a_listing_are_unwrapped_by_one_rule(tmp_path, names, inner):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert model_root(tmp_path) == tmp_path / inner
    assert wrapped_in(names) == inner


def test_a_relative_id_is_found_beside_the_properties_file(tmp_path):
    inner = write_model(tmp_path / "weights")
    (tmp_path / "serving.properties").write_text("")
    assert is_local("weights", tmp_path)
    assert locate("weights", tmp_path) == inner


@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "FILE://{}"])
def test_a_file_url_is_a_path(tmp_path, form):
    folder = write_model(tmp_path / "a model")
    url = form.format(str(folder).replace(" ", "%20"))
    assert is_local(url)
    assert locate(url) == folder


# what is no model

REFUSED = {
    "a path that is not there": (
        "/no/such/folder",
        "model.not-found: there is no folder '/no/such/folder'. Check the path.",
    ),
    "quotes": (
        "'/no/such/folder'",
        "model.not-found: there is no folder ''/no/such/folder''. Take the quotes out: they are part of the value.",
    ),
    "an archive that is not there": (
        "/no/model.tar.gz",
        "model.not-found: there is no archive '/no/model.tar.gz'. Check the path.",
    ),
    "a file url to nothing": (
        "file:///no/such",
        "model.not-found: there is no folder '/no/such'. Check the path.",
    ),
    "another machine": (
        "file://other/model",
        "model.unsupported-location: file://other/model is on another machine. "
        "Write file:///path, and the path of this machine.",
    ),
    "a page": (
        "https://huggingface.co/org/name",
        "model.unsupported-location: https://huggingface.co/org/name is a page. Write the id of its model, org/name.",
    ),
    "a page of a revision": (
        "https://huggingface.co/org/name/tree/v1",
        "model.unsupported-location: https://huggingface.co/org/name/tree/v1 is a page. "
        "Write the id of its model, org/name with option.revision=v1.",
    ),
    "a web server": (
        "https://host/model/",
        "model.unsupported-location: https://host/model/ is no archive; of web servers, archives alone are read. "
        "Name an archive (.tar.gz, .tgz, .tar, .zip), an object store's prefix (s3://), or a model of the hub.",
    ),
    "a model zoo": (
        "djl://ai.djl/x",
        "model.unsupported-location: models are not read from djl://: djl://ai.djl/x. "
        "Name a folder, an archive, s3://, gs:// or az:// with bucket and prefix, or a model of the hub (ORG/NAME).",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model_id", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_no_model_is_refused_without_asking_anybody(model_id, message):
    assert refused(model_id) == message
    assert str(refused_location(model_id)) == message


def test_a_file_that_is_no_archive_names_its_folder(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert refused(str(path)) == (
        f"model.not-a-folder: '{path}' is not a folder. Name the folder it is in, {tmp_path}."
    )


@pytest.mark.parametrize("model_id", ["org/name", "name", "s3://bucket", "s3://b/p/*", "gs://b/p", "az://c/p"])
def test_what_others_can_be_asked_for_is_not_refused(model_id):
    assert refused_location(model_id) is None


# archives


def packed(path, folder, *, inner="model"):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/x", "")
            for each in folder.iterdir():
                archive.write(each, f"{inner}/{each.name}")
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        archive.add(folder, inner)
    return path


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(web_module, "_FIRST_WAIT_S", 0.0)


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return {"LMI_CACHE_DIR": str(tmp_path / "cache")}


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar", ".zip"])
def test_an_archive_here_is_unpacked_and_unwrapped(tmp_path, environ, suffix):
    archive = packed(tmp_path / f"m{suffix}", write_model(tmp_path / "model"))
    assert is_local(str(archive))
    files = place_of(str(archive), None, None, environ=environ)
    assert isinstance(files, LocalFiles)
    assert files.place.startswith(environ["LMI_CACHE_DIR"])
    assert detect(files).architectures == ("LlamaForCausalLM",)
    assert place_of(archive.name, None, tmp_path, environ=environ).place == files.place


class Web(http.server.BaseHTTPRequestHandler):
    """One file; what tests set is in the class they make of it."""

    content, tag, has_ranges, cut_bytes, failing, asked = b"", '"1"', True, (), (), ()

    def do_GET(self):
        own = type(self)
        part = self.headers.get("Range", "")
        own.asked = (*own.asked, part)
        if own.failing:
            status, own.failing = own.failing[0], own.failing[1:]
            self.answer(status, b"", {})
            return
        first, _, last = part.removeprefix("bytes=").partition("-")
        if not part or not own.has_ranges or self.headers.get("If-Range", own.tag) != own.tag:
            self.answer(200, own.content, {})
            return
        content = own.content[int(first) : int(last) + 1 if last else None]
        span = f"bytes {first}-{int(first) + len(content) - 1}/{len(own.content)}"
        self.answer(206, content, {"Content-Range": span})

    def answer(self, status, content, headers):
        own = type(self)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "ETag": own.tag}.items():
            self.send_header(name, value)
        self.end_headers()
        if own.cut_bytes and len(content) > own.cut_bytes[0]:
            content, own.cut_bytes, self.close_connection = content[: own.cut_bytes[0]], own.cut_bytes[1:], True
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web():
    answers = type("Answers", (Web,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    answers.url = f"http://127.0.0.1:{server.server_port}/some/where"
    yield answers
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_archive_of_a_web_server_is_fetched_once_and_unpacked(tmp_path, environ, web):
    web.content = packed(tmp_path / "m.tar.gz", write_model(tmp_path / "model")).read_bytes()
    told = []
    url = f"{web.url}/m.tar.gz?signature=secret"
    files = place_of(
        url, None, None, environ=environ, progress=lambda stage, fraction=None: told.append((stage, fraction))
    )
    assert files.is_here
    assert detect(files).architectures == ("LlamaForCausalLM",)
    assert {"fetch", "unpack"} == {stage for stage, _ in told}
    assert ("fetch", 1.0) in told
    web.asked = ()
    assert place_of(url, None, None, environ=environ).place == files.place
    assert web.asked == ("bytes=0-0",)


def test_a_fetch_that_is_cut_off_goes_on_where_it_stopped(tmp_path, web):
    web.content, web.cut_bytes = os.urandom(300_000), (100_000, 50_000)
    files = WebFiles(f"{web.url}/m.zip")
    assert files.fetch(tmp_path).read_bytes() == web.content
    assert web.asked == ("bytes=0-0", "", "bytes=100000-", "bytes=150000-")


def test_a_fetch_begins_again_where_the_server_has_no_ranges_or_other_content(tmp_path, web):
    web.content, web.cut_bytes, web.has_ranges = os.urandom(300_000), (100_000,), False
    assert WebFiles(f"{web.url}/m.zip").fetch(tmp_path / "a").read_bytes() == web.content


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "model.access-denied"), (401, "model.access-denied"), (404, "model.not-found"), (500, "model.unreachable")],
)
def test_what_a_web_server_refuses_is_told_without_the_query(environ, web, status, code):
    web.failing = (status,) * 9
    with pytest.raises(ArtifactError) as caught:
        place_of(f"{web.url}/m.tar.gz?signature=secret", None, None, environ=environ)
    assert caught.value.code == code
    assert f"{web.url}/m.tar.gz" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_passing_failures_of_a_web_server_are_tried_again(tmp_path, web):
    web.content = b"content"
    files = WebFiles(f"{web.url}/m.zip")
    web.failing = (503, 429)
    assert files.fetch(tmp_path).read_bytes() == b"content"
    web.failing = (503, 429)
    assert WebFiles(f"{web.url}/m.zip").sizes == {"m.zip": 7}
    web.failing = (503,) * 9
    with pytest.raises(WebReadError, match=r"model\.unreachable: .*its server answers 503"):
        files.read("m.zip", 0, 3)


def test_a_web_server_that_is_not_there_is_unreachable(environ):
    with pytest.raises(ArtifactError) as caught:
        place_of("http://127.0.0.1:9/m.zip", None, None, environ=environ)
    assert str(caught.value).startswith("model.unreachable: http://127.0.0.1:9/m.zip cannot be read: URLError: ")


def test_an_archive_that_does_not_fit_is_not_fetched(tmp_path, web, monkeypatch):
    web.content = b"12345"
    files = WebFiles(f"{web.url}/m.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4}))
    with pytest.raises(ArtifactError, match=r"model\.disk-full: .*m\.zip has 5 bytes, .* has 4 bytes free"):
        files.fetch(tmp_path)


def test_a_cache_that_cannot_be_written_is_told_of_an_archive_too(tmp_path, web):
    web.content = b"12345"
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ArtifactError, match=r"model\.cache-unwritable: .*m\.zip cannot be kept in .*cache: "):
        WebFiles(f"{web.url}/m.zip").fetch(tmp_path / "cache")


def test_a_check_does_not_fetch_an_archive_and_says_so(tmp_path, environ, web):
    web.content = packed(tmp_path / "m.tar.gz", write_model(tmp_path / "model")).read_bytes()
    with pytest.raises(NotFetchedError) as caught:
        place_of(f"{web.url}/m.tar.gz", None, None, environ=environ, may_fetch=False)
    (problem,) = caught.value.problems
    assert (problem.code, problem.severity) == ("model.not-fetched", Severity.WARNING)
    size = len(web.content)
    assert problem.message == f"what is in {web.url}/m.tar.gz can be judged only when it is fetched ({size} bytes)"
    assert not Path(environ["LMI_CACHE_DIR"]).exists()


def test_a_check_sees_into_a_zip_where_it_is_and_a_start_fetches_it(tmp_path, environ, web):
    web.content = packed(tmp_path / "m.zip", write_model(tmp_path / "model")).read_bytes()
    files = place_of(f"{web.url}/m.zip", None, None, environ=environ, may_fetch=False)
    artifacts = detect(files)
    assert artifacts.is_elsewhere
    assert artifacts.weights.n_parameters == 16
    assert not Path(environ["LMI_CACHE_DIR"]).exists()
    folder = fetched(files, list(files.sizes), environ=environ)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files.sizes)


# elsewhere


@contextlib.contextmanager
def bucket_with(monkeypatch, folder, prefix):
    with running_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                bucket._client.upload_file(str(path), "bucket", f"{prefix}{path.relative_to(folder)}")
        yield bucket


def test_a_prefix_and_an_archive_of_an_object_store_are_listed_and_fetched(tmp_path, environ, monkeypatch):
    room = tmp_path / "room"
    write_model(room / "wrapped" / "model")
    packed(room / "m.tar.gz", room / "wrapped" / "model")
    with bucket_with(monkeypatch, room, "some/"):
        files = place_of("s3://bucket/some/wrapped/", None, None, environ=environ)
        assert files.place == "s3://bucket/some/wrapped/model"
        folder = fetched(files, ["config.json"], environ=environ)
        assert [path.name for path in folder.iterdir()] == ["config.json"]
        assert detect(files).architectures == ("LlamaForCausalLM",)
        with pytest.raises(NotFetchedError):
            place_of("s3://bucket/some/m.tar.gz", None, None, environ=environ, may_fetch=False)
        unpacked = place_of("s3://bucket/some/m.tar.gz", None, None, environ=environ)
        assert set(unpacked.sizes) == set(files.sizes)
        with pytest.raises(ArtifactError, match=r"model\.not-found"):
            place_of("s3://bucket/some/other.tar.gz", None, None, environ=environ)


def test_safetensors_come_and_pytorch_files_where_there_is_nothing_better(environ, monkeypatch, tmp_path):
    small = {"config.json": b'{"model_type": "llama"}'}
    others = {"onnx/model.onnx": b"0", "onnx/config.json": b"{}", "training_args.bin": b"0"}
    repositories = {
        "org/both": Repository({**small, **others, "model.safetensors": b"0" * 8, "pytorch_model.bin": b"0"}),
        "org/old": Repository({**small, **others, "pytorch_model.bin": b"0"}),
    }
    with started_hub(repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = locate("org/both")
        assert folder == tmp_path / "hub/models--org--both/snapshots" / SHA
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        old = locate("org/old")
        assert sorted(path.name for path in old.iterdir()) == ["config.json", "pytorch_model.bin"]
