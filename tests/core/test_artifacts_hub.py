# SPDX-License-Identifier: Apache-2.0
"""Models of the hub: listed, read by ranges and fetched from a little hub of the tests' own, and from the cache."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lmi.api import ArtifactError
from lmi.artifacts.formats import detect
from lmi.artifacts.leftovers import wanted_files
from lmi.artifacts.places import hub as hub_module
from lmi.artifacts.places.files import LocalFiles
from lmi.artifacts.places.finding import fetched, place_of
from lmi.artifacts.places.hub import HubFiles, hub_files, is_offline
from lmi.artifacts.places.hub_cache import bars_for
from lmi.artifacts.places.hub_errors import HubReadError
from tests.core.model_folders import write_model
from tests.hubs import SHA, Hub, Repository, started_hub
from tests.limits import limit_s


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_module, "_FIRST_WAIT_S", 0.0)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DJL_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model"), n_shards=2)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(model_files):
    both = {**model_files, "pytorch_model.bin": b"PK", "onnx/model.onnx": b"0" * 64, ".gitattributes": b"x"}
    repositories = {
        "org/model": Repository(both, revisions=("main", "v1")),
        "org/gated": Repository(model_files, is_gated=True),
        "org/closed": Repository({}, refusal="GatedRepo"),
        "org/wrapped": Repository({f"inner/{name}": content for name, content in model_files.items()}),
        "org/odd": Repository({"config.json": b"{}", "a[1] b#.txt": b"odd"}),
    }
    with started_hub(repositories) as running:
        yield running


def opened(hub: Hub, model_id: str = "org/model", revision: str | None = None) -> HubFiles:
    return HubFiles(model_id, revision, {"HF_ENDPOINT": hub.url})


def refused(hub: Hub, model_id: str, revision: str | None = None) -> str:
    with pytest.raises(ArtifactError) as caught:
        hub_files(model_id, revision, {"HF_ENDPOINT": hub.url})
    return str(caught.value)


def fill_cache(model_id: str, files: dict[str, bytes], *, revision: str = "main") -> Path:
    cached = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    for name, content in files.items():
        path = cached / "snapshots" / SHA / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (cached / "refs").mkdir(exist_ok=True)
    (cached / "refs" / revision).write_text(SHA)
    return cached / "snapshots" / SHA


# what is there


def test_a_model_is_listed_with_sizes_and_without_hidden_files(hub, model_files):
    files = opened(hub)
    assert files.sizes == {
        **{name: len(content) for name, content in model_files.items()}, "pytorch_model.bin": 2, "onnx/model.onnx": 64,
    }  # fmt: skip
    assert not files.is_here
    assert files.at("config.json") == f"{hub.url}/org/model/resolve/main/config.json"


def test_a_model_is_described_without_fetching_a_weight(hub, model_files):
    artifacts = detect(opened(hub))
    assert artifacts.architectures == ("LlamaForCausalLM",)
    assert artifacts.weights.n_parameters == 32
    assert artifacts.weight_files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert not Path(constants.HF_HUB_CACHE).exists()


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize(("start", "n_bytes"), [(0, 4), (3, 5), (0, None), (7, None), (5, 10_000), (10_000, 4)])
def test_a_range_is_read_whether_the_hub_knows_ranges_or_not(hub, model_files, start, n_bytes, has_ranges):
    hub.has_ranges = has_ranges
    whole = model_files["config.json"]
    end = None if n_bytes is None else start + n_bytes
    assert opened(hub).read("config.json", start, n_bytes) == whole[start:end]


def test_what_is_read_is_of_the_commit_that_was_listed(hub):
    files = opened(hub, revision="v1")
    files.read("config.json", 0, 4)
    assert hub.asked[-1] == ("GET", f"org/model/resolve/{SHA}/config.json", "bytes=0-3")


def test_a_file_in_the_cache_is_not_asked_for_again(hub, model_files):
    fill_cache("org/model", {"config.json": model_files["config.json"]})
    assert opened(hub).json("config.json")["model_type"] == "llama"
    assert hub.bytes_asked() == []


def test_odd_names_reach_the_hub_as_they_are(hub):
    assert opened(hub, "org/odd").read("a[1] b#.txt") == b"odd"


# what goes wrong on the way


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(hub, status):
    files = opened(hub)
    hub.failing += [status, status]
    assert files.read("config.json", 0, 1) == b"{"


def test_a_connection_that_is_cut_is_tried_again(hub, model_files):
    files = opened(hub)
    hub.cut_bytes = 10
    assert files.read("config.json") == model_files["config.json"]


@pytest.mark.parametrize(
    ("status", "n_tries", "code"),
    [
        (429, 3, "model.rate-limited"),
        (503, 3, "model.unreachable"),
        (404, 1, "model.not-found"),
        (401, 1, "model.access-denied"),
        (403, 1, "model.access-denied"),
    ],
)
def test_a_read_that_fails_says_why_and_only_passing_failures_are_repeated(hub, status, n_tries, code):
    files = opened(hub)
    hub.asked.clear()
    hub.failing += [status] * n_tries
    with pytest.raises(HubReadError) as caught:
        files.read("config.json")
    assert caught.value.error.code == code
    assert "config.json of 'org/model'" in str(caught.value)
    assert len(hub.asked) == n_tries


@pytest.mark.parametrize(
    ("model_id", "revision", "message"),
    [
        (
            "org/absent", None,
            "model.not-found: 'org/absent' is neither a folder here nor a model that the hub shows to this token. "
            "Check the spelling; for a private model set HF_TOKEN.",
        ),
        (
            "org/model", "v9",
            "model.not-found: 'org/model' has no revision 'v9'. Check option.revision.",
        ),
        (
            "org/closed", None,
            "model.gated: 'org/closed' is gated. Accept its terms on its page and set HF_TOKEN.",
        ),
        (
            "org/gated", None,
            "model.gated: 'org/gated' is gated. Accept its terms on its page and set HF_TOKEN.",
        ),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_told_apart(hub, model_id, revision, message):
    assert refused(hub, model_id, revision) == message


def test_a_gated_model_is_read_and_fetched_with_a_token_that_has_access(hub):
    files = HubFiles("org/gated", None, {"HF_ENDPOINT": hub.url, "HF_TOKEN": "good"})
    assert files.json("config.json")["model_type"] == "llama"
    assert (files.fetch(["config.json"]) / "config.json").is_file()
    with pytest.raises(ArtifactError, match=r"model\.gated"):
        HubFiles("org/gated", None, {"HF_ENDPOINT": hub.url, "HF_TOKEN": "bad"})


def test_too_many_requests_are_told_as_such(hub):
    hub.failing += [429] * 9
    assert refused(hub, "org/model") == (
        "model.rate-limited: the hub refuses 'org/model' for now (429): this address or token asked too often. "
        "Set HF_TOKEN, which raises the limit, or try again later."
    )


def test_a_hub_that_is_not_there_is_unreachable():
    with pytest.raises(ArtifactError) as caught:
        hub_files("org/model", None, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert str(caught.value).startswith(
        "model.unreachable: 'org/model' is no folder here and could not be fetched from http://127.0.0.1:9: "
    )
    assert caught.value.__cause__ is not None


# fetching


def test_exactly_the_wanted_names_are_fetched_and_told(hub, model_files):
    told = []
    files = opened(hub)
    folder = files.fetch(wanted_files(detect(files)), lambda stage, fraction=None: told.append((stage, fraction)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == model_files
    assert folder == Path(constants.HF_HUB_CACHE) / "models--org--model/snapshots" / SHA
    assert {stage for stage, _ in told} == {"fetch"}
    assert told[-1][1] == 1.0
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)


def test_names_with_the_signs_of_patterns_are_fetched_alone(hub):
    folder = opened(hub, "org/odd").fetch(["a[1] b#.txt"])
    assert [path.name for path in folder.iterdir()] == ["a[1] b#.txt"]


def test_what_is_in_the_cache_is_not_fetched_again(hub):
    names = ["config.json", "model-00001-of-00002.safetensors"]
    opened(hub).fetch(names)
    hub.asked.clear()
    opened(hub).fetch(names)
    assert [path for _, path, _ in hub.asked] == ["api/models/org/model"]


def test_a_file_of_another_size_in_the_cache_is_not_taken_for_the_whole(hub):
    fill_cache("org/model", {"config.json": b"{"})
    with pytest.raises(ArtifactError, match=r"model\.unreachable: config\.json of 'org/model' is not whole"):
        opened(hub).fetch(["config.json"])


def test_a_model_that_does_not_fit_on_the_disk_is_not_begun(hub, monkeypatch):
    files = opened(hub)
    hub.asked.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(ArtifactError) as caught:
        files.fetch(["config.json"])
    size = files.sizes["config.json"]
    assert str(caught.value).startswith(
        f"model.disk-full: 'org/model' does not fit on the disk: {size} bytes are to be fetched, "
    )
    assert hub.asked == []


def test_a_fetch_that_fails_keeps_its_cause(hub):
    files = opened(hub)
    hub.repositories["org/model"].files.pop("config.json")
    hub.repositories["org/model"].refusal = "GatedRepo"
    with pytest.raises(ArtifactError) as caught:
        files.fetch(["config.json"])
    assert caught.value.code in ("model.gated", "model.access-denied")
    assert caught.value.__cause__ is not None


def test_everything_in_one_folder_is_seen_and_fetched_as_that_folder(hub, model_files):
    environ = {"HF_ENDPOINT": hub.url}
    files = place_of("org/wrapped", None, None, environ=environ)
    assert set(files.sizes) == set(model_files)
    folder = fetched(files, ["config.json"], environ=environ)
    assert folder.name == "inner"
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_progress_counts_bytes_where_the_client_does_and_files_otherwise():
    told = []
    bars = bars_for(lambda stage, fraction=None: told.append(fraction), 200)
    for _ in bars(range(2), total=2):
        pass
    assert told == [0.5, 1.0]
    told.clear()
    bars = bars_for(lambda stage, fraction=None: told.append(fraction), 200)
    whole = bars(total=0, unit="B", initial=0, name="x")
    files = bars(total=3, unit="it")
    whole.update(50)
    files.update(1)
    whole.update(150)
    assert told == [0.25, 1.0]


# without the network


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DJL_OFFLINE"])
def test_offline_the_cached_snapshot_serves_and_nothing_is_asked(hub, model_files, variable):
    folder = fill_cache("org/model", model_files)
    environ = {"HF_ENDPOINT": hub.url, variable: "1"}
    assert is_offline(environ)
    files = place_of("org/model", None, None, environ=environ)
    assert isinstance(files, LocalFiles)
    assert files.folder == folder.resolve()
    assert fetched(files, list(files.sizes), environ=environ) == files.folder
    assert hub.asked == []


def test_what_was_fetched_by_branch_is_found_offline_by_branch_tag_and_commit(hub, model_files):
    opened(hub, revision=None).fetch(list(model_files))
    opened(hub, revision="v1").fetch(list(model_files))
    for revision in (None, "main", "v1", SHA):
        assert hub_files("org/model", revision, {"HF_HUB_OFFLINE": "1"}).sizes.keys() == model_files.keys()


def test_offline_without_a_snapshot_says_how_to_get_one():
    with pytest.raises(ArtifactError) as caught:
        hub_files("org/model", "v1", {"DJL_OFFLINE": "true"})
    assert str(caught.value) == (
        "model.unreachable: 'org/model' at revision 'v1' is no folder here and could not be fetched: DJL_OFFLINE "
        "forbids the network, and the cache has none of it. Fetch it once where the network is allowed: "
        "hf download org/model, or name a folder."
    )


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        (["model-00002-of-00002.safetensors"], "model-00002-of-00002.safetensors missing"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors missing",
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            "its weights missing",
        ),
    ],
)
def test_offline_a_snapshot_in_part_says_what_is_missing(model_files, absent, told):
    folder = fill_cache("org/model", {name: model_files[name] for name in model_files if name not in absent})
    with pytest.raises(ArtifactError) as caught:
        hub_files("org/model", None, {"HF_HUB_OFFLINE": "1"})
    assert str(caught.value) == (
        f"model.partly-cached: only part of 'org/model' is in the hub's cache, {told}, and HF_HUB_OFFLINE forbids "
        f"the network: {folder}. Fetch it once where the network is allowed: hf download org/model, or name a folder."
    )


def test_an_index_of_pickles_does_not_count_where_safetensors_are_whole(tmp_path):
    files = {"model.safetensors": b"x", "pytorch_model.bin.index.json": json.dumps({"weight_map": {"w": "a.bin"}})}
    fill_cache("org/model", {name: str(content).encode() for name, content in files.items()})
    assert "model.safetensors" in hub_files("org/model", None, {"HF_HUB_OFFLINE": "1"}).sizes


@pytest.mark.parametrize("status", [500, 429])
def test_where_the_hub_fails_the_cached_snapshot_serves_and_the_log_says_so(hub, model_files, caplog, status):
    folder = fill_cache("org/model", model_files)
    hub.failing += [status] * 9
    with caplog.at_level(logging.WARNING, logger="lmi.artifacts.places.hub"):
        files = hub_files("org/model", None, {"HF_ENDPOINT": hub.url})
    assert files.place == str(folder.resolve())
    assert "the hub cannot be asked for org/model" in caplog.text


def test_a_refusal_is_told_although_there_is_a_cached_snapshot(hub, model_files):
    fill_cache("org/closed", model_files)
    assert refused(hub, "org/closed").startswith("model.gated")


FETCH = """
import os, sys
from lmi.artifacts.places.hub import HubFiles
folder = HubFiles("org/model", None).fetch(["config.json", "model-00001-of-00002.safetensors"])
print(sorted(path.name for path in folder.iterdir()))
"""


def test_two_processes_that_start_at_once_both_get_the_model(hub, tmp_path):
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "shared")}
    running = [
        subprocess.Popen([sys.executable, "-c", FETCH], env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=limit_s(60))[0].strip() for process in running]
    assert answers == ["['config.json', 'model-00001-of-00002.safetensors']"] * 2
