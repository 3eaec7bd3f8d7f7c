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


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers every question about a model with the error in its name, as the hub words it."""

    def do_GET(self):
        code = self.path.split("/api/models/org/")[-1].split("/")[0]
        self.send_response({"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404}.get(code, 500))
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

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
for model_id, revision in json.loads(sys.argv[1]):
    try:
        answers.append(str(locate(model_id, revision, None)))
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
        tmp_path, ("org/GatedRepo", None), ("org/RepoNotFound", None), ("org/RevisionNotFound", "v9"), HF_ENDPOINT=hub
    )
    assert gated == "model.gated: 'org/GatedRepo' is gated. Accept its terms on its page and set HF_TOKEN."
    assert absent == (
        "model.not-found: 'org/RepoNotFound' is neither a folder here nor a model that the hub shows to this token. "
        "Check the spelling; for a private model set HF_TOKEN."
    )
    assert no_revision == "model.not-found: 'org/RevisionNotFound' has no revision 'v9'. Check option.revision."


def test_offline_a_cached_model_is_found_and_another_is_named_as_unreachable(tmp_path):
    cached = tmp_path / "hf/hub/models--org--cached"
    write_model(cached / "snapshots/abc123")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc123")
    found, unreachable = fetch(tmp_path, ("org/cached", None), ("org/other", "v1"), HF_HUB_OFFLINE="1")
    assert found == str(cached / "snapshots/abc123")
    assert unreachable.startswith(
        "model.unreachable: 'org/other' at revision 'v1' is no folder here and could not be fetched: "
    )
    assert unreachable.endswith("Check the network, the disk and HF_HUB_OFFLINE, or name a folder.")
