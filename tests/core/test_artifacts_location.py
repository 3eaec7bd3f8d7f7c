# SPDX-License-Identifier: Apache-2.0
"""Where a model is looked for. The hub is a little server of the test's own."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from lmi.api import ArtifactError
from lmi.artifacts import is_local, locate
from tests.core.model_folders import write_model
from tests.limits import limit_s


def refused(model_id, folder=None):
    with pytest.raises(ArtifactError) as caught:
        locate(model_id, None, folder)
    return str(caught.value)


def test_a_folder_is_used_in_place(tmp_path):
    folder = write_model(tmp_path)
    assert locate(str(folder), None, None) == folder
    assert locate(None, None, folder) == folder


def test_without_any_folder_there_is_no_model():
    assert locate(None, None, None) is None


def test_one_folder_inside_is_the_model_and_hidden_names_do_not_count(tmp_path):
    inner = write_model(tmp_path / "wrapped")
    (tmp_path / ".DS_Store").write_text("")
    assert locate(str(tmp_path), None, None) == inner
    (tmp_path / "serving.properties").write_text("")
    assert locate(str(tmp_path), None, None) == tmp_path


def test_a_relative_id_is_found_beside_the_properties_file(tmp_path):
    inner = write_model(tmp_path / "weights")
    (tmp_path / "serving.properties").write_text("")
    assert is_local("weights", tmp_path)
    assert locate("weights", None, tmp_path) == inner


def test_locations_that_cannot_be_read_yet_are_refused_by_kind():
    assert refused("s3://bucket/prefix/") == (
        "model.unsupported-location: models from s3:// are not supported yet: s3://bucket/prefix/. "
        "Copy the files to this machine and name their folder."
    )


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id():
    assert refused("/no/such/folder") == "model.not-found: there is no folder '/no/such/folder'. Check the path."


def test_an_archive_is_not_a_folder(tmp_path):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"")
    assert refused(str(archive)).startswith(f"model.not-a-folder: '{archive}' is not a folder. Unpack it")


SHA = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "both": ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json"],
    "old": ["config.json", "pytorch_model.bin", "training_args.bin"],
}
REFUSALS = {"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404}


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves two repositories; of every other model it says the error that is its name, as the hub words it."""

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = parts[3] if parts[0] == "api" else parts[1]
        files = REPOSITORIES.get(name, [])
        if name not in REPOSITORIES:
            self.answer(b"", REFUSALS[name], {"X-Error-Code": name})
        elif "resolve" in parts:
            self.answer(b"{}", 200, {"ETag": '"etag"', "X-Repo-Commit": SHA})
        elif "tree" in parts:
            self.answer_json([{"type": "file", "path": path, "size": 2, "oid": SHA} for path in files])
        else:
            self.answer_json({"id": f"org/{name}", "sha": SHA, "siblings": [{"rfilename": path} for path in files]})

    do_HEAD = do_GET

    def answer_json(self, content):
        self.answer(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def answer(self, body, status, headers):
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


FETCH = """
import json, sys
from lmi.api import ArtifactError
from lmi.artifacts import locate
answers = []
for model_id, revision, weights in json.loads(sys.argv[1]):
    try:
        folder = locate(model_id, revision, None, weights=weights)
        answers.append([str(folder), *sorted(path.name for path in folder.iterdir())])
    except ArtifactError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def fetch(tmp_path, *asked, **environ):
    """What locate answers in a process of its own: the hub's client reads its variables once, when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(asked)],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environ},
        cwd=tmp_path, capture_output=True, text=True, timeout=limit_s(60), check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_hubs_refusals_are_told_apart(tmp_path, hub):
    gated, absent, no_revision = fetch(
        tmp_path,
        ("org/GatedRepo", None, True),
        ("org/RepoNotFound", None, True),
        ("org/RevisionNotFound", "v9", True),
        HF_ENDPOINT=hub,
    )
    assert gated == "model.gated: 'org/GatedRepo' is gated. Accept its terms on its page and set HF_TOKEN."
    assert absent == (
        "model.not-found: 'org/RepoNotFound' is neither a folder here nor a model that the hub shows to this token. "
        "Check the spelling; for a private model set HF_TOKEN."
    )
    assert no_revision == "model.not-found: 'org/RevisionNotFound' has no revision 'v9'. Check option.revision."


def test_configuration_comes_before_weights_and_safetensors_before_pytorch_files(tmp_path, hub):
    (_, *small), (folder, *whole), (_, *old) = fetch(
        tmp_path, ("org/both", None, False), ("org/both", None, True), ("org/old", None, True), HF_ENDPOINT=hub
    )
    assert small == ["config.json"]
    assert whole == ["config.json", "model.safetensors"]
    assert old == ["config.json", "pytorch_model.bin"]
    assert folder.endswith(f"models--org--both/snapshots/{SHA}")


def test_offline_a_cached_model_is_found_and_another_is_named_as_unreachable(tmp_path):
    cached = tmp_path / "hf/hub/models--org--cached"
    write_model(cached / "snapshots/abc123")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc123")
    found, unreachable = fetch(tmp_path, ("org/cached", None, True), ("org/other", "v1", True), HF_HUB_OFFLINE="1")
    assert found[0] == str(cached / "snapshots/abc123")
    assert unreachable.startswith(
        "model.unreachable: 'org/other' at revision 'v1' is no folder here and could not be fetched: "
    )
    assert unreachable.endswith("Check the network, the disk and HF_HUB_OFFLINE, or name a folder.")
