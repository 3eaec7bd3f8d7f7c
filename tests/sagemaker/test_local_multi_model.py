# SPDX-License-Identifier: Apache-2.0
"""A multi-model endpoint, in front of a container with room for two models."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.buckets import Bucket
from tests.core.archive_files import tar
from tests.sagemaker.emulators import QUICK, Emulator, container, emulator, refused
from tests.servers import eventually, in_threads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    (made / "team").mkdir()
    for name in ("a", "b", "c", "team/d", "e"):
        tar(made / f"{name}.tar.gz", ("words.txt", f"I am {name}".encode()), mode="w:gz")
    tar(made / "empty.tar.gz", ("other.txt", b""), mode="w:gz")
    (made / "damaged.tar.gz").write_bytes(b"no archive")
    return made


@pytest.fixture
def local(folder: Path) -> Iterator[Emulator]:
    with emulator(*container("--n-models", "2"), *QUICK, "--multi-model", str(folder)) as process:
        yield process


def ask(local: Emulator, target: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(local.invoke(TargetModel=target)["Body"].read())
    return answer


def opaque(target: str) -> str:
    return hashlib.sha256(target.encode()).hexdigest()[:32]


def test_a_model_is_unpacked_and_loaded_when_it_is_asked_for(local: Emulator) -> None:
    told = ask(local, "team/d.tar.gz")
    assert told["words"] == "I am team/d"
    assert told["target"] == "team/d.tar.gz"
    assert told["url"].endswith(f"/{told['name']}/model")
    assert ask(local, "team/d.tar.gz")["log"] == [f"load {opaque('team/d.tar.gz')}"]
    assert not local.violations()


def test_a_model_without_room_takes_that_of_the_one_used_longest_ago(local: Emulator) -> None:
    for name in ("a", "b", "a", "c"):
        told = ask(local, f"{name}.tar.gz")
    a, b, c = (opaque(f"{name}.tar.gz") for name in ("a", "b", "c"))
    assert told["log"] == [f"load {a}", f"load {b}", f"unload {b}", f"load {c}"]
    assert ask(local, "b.tar.gz")["log"][4:] == [f"unload {a}", f"load {b}"]


def test_calls_at_the_same_time_load_a_model_once(local: Emulator) -> None:
    answers = in_threads([lambda: ask(local, "a.tar.gz")] * 6)
    assert {tuple(each["log"]) for each in answers} == {(f"load {opaque('a.tar.gz')}",)}


def test_a_container_that_lost_its_models_gets_them_again(local: Emulator) -> None:
    ask(local, "a.tar.gz")
    [copy] = local.get("/endpoints")["Endpoints"][0]["copies"]
    httpx.delete(f"{copy['url']}/models/{opaque('a.tar.gz')}", trust_env=False)
    assert ask(local, "a.tar.gz")["words"] == "I am a"


def test_a_container_that_starts_again_gets_its_models_again(local: Emulator) -> None:
    pid = local.get("/endpoints")["Endpoints"][0]["copies"][0]["pid"]
    ask(local, "a.tar.gz")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: local.violations("process.ended"))
    assert (
        local.violations("process.ended")[0]["message"] == "model/0: it ended with signal SIGKILL; it is started again"
    )
    eventually(lambda: local.get("/endpoints")["Endpoints"][0]["copies"][0]["state"] == "Healthy")
    assert ask(local, "a.tar.gz")["log"] == [f"load {opaque('a.tar.gz')}"]


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("nothing.tar.gz", "Failed to download model data"),
        ("damaged.tar.gz", "Failed to download model data"),
        ("../models/a.tar.gz", "is no path below the models"),
        ("{folder}/a.tar.gz", "is no path below the models"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(local: Emulator, folder: Path, target: str, part: str) -> None:
    with refused("ValidationError") as found:
        ask(local, target.format(folder=folder))
    assert part in found["Error"]["Message"]


def test_a_model_that_the_container_refuses_is_a_model_error(local: Emulator) -> None:
    for _ in range(2):  # nothing is kept of the first try
        with refused("ModelError") as found:
            ask(local, "empty.tar.gz")
        assert (found["OriginalStatusCode"], found["OriginalMessage"]) == (400, "the model has no words.txt")


def test_a_call_without_a_target_is_refused(local: Emulator) -> None:
    with refused("ValidationError") as found:
        local.invoke()
    assert "missing a target model header" in found["Error"]["Message"]


def test_a_model_that_takes_its_time_is_not_ready_and_goes_on_loading(folder: Path) -> None:
    flags = ("--n-models", "2", "--load-takes-s", "2")
    times = ("--time", "model-wait=0.5")
    with emulator(*container(*flags), *QUICK, *times, "--multi-model", str(folder)) as local:
        with refused("ModelNotReadyException") as found:
            ask(local, "a.tar.gz")
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 429
        for _ in range(100):
            try:
                told = ask(local, "a.tar.gz")
                break
            except local.runtime.exceptions.ModelNotReadyException:
                continue
        assert told["log"] == [f"load {opaque('a.tar.gz')}"]


def test_a_model_that_nobody_waited_for_and_that_failed_is_tried_again_and_never_unloaded(folder: Path) -> None:
    flags = ("--n-models", "1", "--load-takes-s", "1")
    with emulator(*container(*flags), *QUICK, "--time", "model-wait=0.5", "--multi-model", str(folder)) as local:

        def asked(target: str) -> str:
            try:
                return str(ask(local, target)["words"])
            except local.runtime.exceptions.ModelNotReadyException:
                return ""

        assert not asked("empty.tar.gz")
        time.sleep(1)
        for name in ("a", "b"):
            eventually(lambda name=name: asked(f"{name}.tar.gz") == f"I am {name}")
        told = ask(local, "b.tar.gz")
        assert f"unload {opaque('empty.tar.gz')}" not in told["log"]
        assert not local.violations()


def test_a_model_that_is_wanted_again_while_it_is_unloaded_keeps_its_files(folder: Path) -> None:
    flags = ("--n-models", "2", "--unload-takes-s", "1")
    with emulator(*container(*flags), *QUICK, "--multi-model", str(folder)) as local:
        ask(local, "a.tar.gz")
        ask(local, "b.tar.gz")

        def again() -> str:
            time.sleep(0.5)  # it is being unloaded
            return str(ask(local, "a.tar.gz")["words"])

        assert in_threads([lambda: ask(local, "c.tar.gz")["words"], again]) == ["I am c", "I am a"]
        assert ask(local, "a.tar.gz")["words"] == "I am a"
        assert not local.violations()


def test_a_container_that_knows_no_models_is_told(folder: Path) -> None:
    with emulator(*container(), *QUICK, "--multi-model", str(folder)) as local:
        assert [each["message"] for each in local.violations("models.route")] == ["model/0: GET /models: status 404"]
        with refused("ModelError"):
            ask(local, "a.tar.gz")


def test_models_are_unpacked_where_it_is_wanted(folder: Path, tmp_path: Path) -> None:
    flags = ("--multi-model", str(folder), "--unpack-to", str(tmp_path / "unpacked"))
    with emulator(*container("--n-models", "2"), *QUICK, *flags) as local:
        assert Path(ask(local, "a.tar.gz")["url"]).is_relative_to(tmp_path / "unpacked")


def test_models_come_from_s3(bucket: Bucket, tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", ("words.txt", b"from S3"), mode="w:gz")
    bucket.put("models/a.tar.gz", archive.read_bytes())
    flags = ("--multi-model", "s3://bucket/models/")
    with emulator(*container("--n-models", "2"), *QUICK, *flags, environ=bucket.environ) as local:
        assert ask(local, "a.tar.gz")["words"] == "from S3"
        with refused("ValidationError") as found:
            ask(local, "b.tar.gz")
        assert "there is no object s3://bucket/models/b.tar.gz" in found["Error"]["Message"]
