# SPDX-License-Identifier: Apache-2.0
"""Adapters loaded from elsewhere: an object store, the hub, a web server, archives; judged before they come."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.buckets import Bucket, running_bucket
from tests.faults.conftest import FaultyServer
from tests.hubs import Hub, Repository, started_hub
from tests.servers import ServerProcess
from tests.wire.adapter_servers import TINY, asked, refused

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with running_bucket() as running:
        yield running


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with started_hub({}) as running:
        yield running


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL of a web server, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("web")
    answers = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; adapters for it lie elsewhere."""
    return write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(serve_faulty: FaultyServer, folder: Path, cache: Path, bucket: Bucket, hub: Hub) -> Iterator[ServerProcess]:
    environ = {
        **bucket.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache / "hub"), "HF_HUB_OFFLINE": "0",
        "LMI_CACHE_DIR": str(cache),
    }  # fmt: skip
    with serve_faulty(str(folder), *TINY, **environ) as process:
        yield process


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        for each in asked(server, "GET", "/adapters").json()["adapters"]:
            assert asked(server, "DELETE", f"/adapters/{each['name']}").status_code == 200


def load(server: ServerProcess, src: str, name: str = "fr", **more: Any) -> httpx.Response:
    return asked(server, "POST", "/adapters", json={"name": name, "src": src, **more})


def answer(server: ServerProcess, name: str) -> str:
    response = server.post({"inputs": "abc", "parameters": {"max_new_tokens": 4}, "adapters": name})
    assert response.status_code == 200, response.text
    return str(response.json()["generated_text"])


def content(model: Path, folder: Path, **options: Any) -> dict[str, bytes]:
    """The files of an adapter, with one that nobody needs."""
    write_tiny_adapter(folder, model, **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"read me"}


def tarred(files: dict[str, bytes]) -> bytes:
    """An archive with a folder around everything."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, each in files.items():
            info = tarfile.TarInfo(f"adapter/{name}")
            info.size = len(each)
            archive.addfile(info, io.BytesIO(each))
    return data.getvalue()


# ------------------------------------------------------------------------------------------------------ where it is


def test_an_adapter_comes_from_an_object_store(
    server: ServerProcess, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    for name, each in content(folder, tmp_path / "a").items():
        bucket.put(f"adapters/plain/{name}", each)
    loaded = load(server, "s3://bucket/adapters/plain/")
    assert loaded.status_code == 200, loaded.text
    [shown] = loaded.json()["adapters"]
    assert (shown["src"], shown["state"]) == ("s3://bucket/adapters/plain/", "loaded")
    assert answer(server, "fr") == "frfr"
    assert "[model: adapter fr] fetch" in server.output


def test_an_adapter_comes_from_the_hub(
    server: ServerProcess, hub: Hub, cache: Path, folder: Path, tmp_path: Path
) -> None:
    hub.repositories["org/french"] = Repository(content(folder, tmp_path / "a"))
    assert load(server, "org/french").json()["adapters"][0]["src"] == "org/french"
    assert answer(server, "fr") == "frfr"
    assert list(cache.glob(f"hub/**/models--org--french/**/{WEIGHTS}"))
    assert not any("README" in path for _, path, _ in hub.asked), "what nobody needs is not fetched"


@pytest.mark.parametrize("place", ["s3", "web", "here"])
def test_an_adapter_comes_in_an_archive(
    server: ServerProcess, bucket: Bucket, web: tuple[str, Path], folder: Path, tmp_path: Path, place: str
) -> None:
    data = tarred(content(folder, tmp_path / "a"))
    url, served = web
    bucket.put("archives/fr.tar.gz", data)
    (served / "fr.tar.gz").write_bytes(data)
    sources = {
        "s3": "s3://bucket/archives/fr.tar.gz",
        "web": f"{url}/fr.tar.gz?X-Amz-Signature=secret",
        "here": f"{served}/fr.tar.gz",
    }
    loaded = load(server, sources[place])
    assert loaded.status_code == 200, loaded.text
    assert "secret" not in loaded.text
    assert answer(server, "fr") == "frfr"


def test_an_adapter_that_is_only_registered_is_fetched_and_checked_at_once(
    server: ServerProcess, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    for name, each in content(folder, tmp_path / "a", seed=3).items():
        bucket.put(f"adapters/late/{name}", each)
    [shown] = load(server, "s3://bucket/adapters/late", preload=False).json()["adapters"]
    assert shown["state"] == "registered"
    for name in (WEIGHTS, "adapter_config.json"):
        bucket.delete(f"adapters/late/{name}")  # the platform may do this
    assert answer(server, "fr") == "frfr"
    assert asked(server, "GET", "/adapters/fr").json()[0]["state"] == "loaded"


# ---------------------------------------------------------------------------------------------- what is wrong with it


def test_a_wrong_adapter_is_refused_before_its_weights_are_fetched(
    server: ServerProcess, hub: Hub, bucket: Bucket, cache: Path, folder: Path, tmp_path: Path
) -> None:
    files = content(folder, tmp_path / "a", rank=16)
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps({**config, "target_modules": ["query_key_value"]}).encode()
    hub.repositories["org/wrong"] = Repository(files)
    hub.asked.clear()
    message = refused(load(server, "org/wrong"), 400, "adapter.invalid")
    assert "2 problems with adapter 'fr'" in message
    assert "[adapter.rank] adapter 'fr' has rank 16, and max_lora_rank is 8" in message
    assert "changes query_key_value, which llama models do not have" in message
    read = [part for path, part in ((path, part) for _, path, part in hub.asked) if path.endswith(WEIGHTS)]
    assert all(part.startswith("bytes=0-") for part in read if part), "the header alone was read"
    assert not list(cache.glob(f"hub/**/models--org--wrong/**/{WEIGHTS}"))

    for name, each in files.items():
        bucket.put(f"adapters/wrong/{name}", each)
    assert "adapter.rank" in refused(load(server, "s3://bucket/adapters/wrong"), 400, "adapter.invalid")
    assert asked(server, "GET", "/adapters").json() == {"adapters": []}


def test_pickles_alone_are_refused_wherever_they_are(
    server: ServerProcess, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    files = content(folder, tmp_path / "a")
    files["adapter_model.bin"] = files.pop(WEIGHTS)
    hub.repositories["org/pickle"] = Repository(files)
    assert "takes no pickles" in refused(load(server, "org/pickle"), 400, "adapter.invalid")


def test_what_is_not_there_is_refused_with_where_was_looked(server: ServerProcess, folder: Path) -> None:
    message = refused(load(server, "org/nothing"), 400, "adapter.bad-source")
    assert message.startswith(
        "adapter.bad-source: 'org/nothing' is neither a folder here nor a model that the hub shows"
    )
    assert f"nor is there a folder {folder}/org/nothing" in message
    cases = {
        "s3://bucket/no/such": "s3://bucket/no/such",
        "s3://": "names no bucket",
        "ftp://host/adapter": "models are not read from ftp://",
        "https://huggingface.co/org/french": "Write the id of its model, org/french",
        "nowhere": f"there is no folder '{folder}/nowhere'",
    }
    for src, said in cases.items():
        assert said in refused(load(server, src), 400, "adapter.bad-source")


def test_a_place_that_does_not_answer_may_be_asked_again(
    serve_faulty: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "LMI_CACHE_DIR": str(tmp_path)}
    with serve_faulty(str(folder), *TINY, **environ, HF_HUB_OFFLINE="1") as server:
        response = load(server, "org/french")
        assert "org/french" in refused(response, 503, "adapter.unreachable")
        assert response.headers["retry-after"]


def test_places_that_the_operator_does_not_allow_are_not_asked(
    serve_faulty: FaultyServer, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.repositories["org/french"] = Repository(content(folder, tmp_path / "adapters" / "fr"))
    hub.asked.clear()
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "SERVING_MODEL_URL_PATTERN": r"s3://ours/.*|/.*"}
    with serve_faulty(str(folder), *TINY, **environ) as server:
        for src in ("org/french", "s3://theirs/adapter", "http://169.254.169.254/adapter.tar.gz"):
            message = refused(load(server, src), 400, "adapter.bad-source")
            assert f"src={src} does not match model_url_pattern=s3://ours/.*|/.*" in message
        assert hub.asked == []
        assert load(server, str(tmp_path / "adapters" / "fr")).status_code == 200
