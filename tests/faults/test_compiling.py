# SPDX-License-Identifier: Apache-2.0
"""``lmi compile``: a build is there whole or not at all, says what it was made of, and is not made twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmi.compiling.folder import is_empty, is_fixed, put
from lmi.compiling.manifest import sha256_of
from lmi.testing import write_tiny
from tests.buckets import Bucket, running_bucket
from tests.core.distributions import Distributions
from tests.limits import limit_s
from tests.servers import eventually

Command = Callable[..., subprocess.CompletedProcess[str]]
LMI = (sys.executable, "-m", "lmi")


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    site, cache = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cache")
    code = (Path(__file__).parent / "building_backend.py").read_text()
    Distributions(site).install("lmi-building", "lmi.backends", "building", code)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "LMI_CACHE_DIR": str(cache)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def run(environ: dict[str, str], model: Path) -> Command:
    """``run(output, "build=raise")``: what ``lmi compile`` prints and ends with."""

    def command(output: object, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
        flags = [word for option in ("rolling_batch=building", *options) for word in ("-o", option)]
        return subprocess.run(
            [*LMI, "compile", str(model), *flags, "--output", str(output)],
            env={**environ, **more}, capture_output=True, text=True, timeout=limit_s(120), check=False,
        )  # fmt: skip

    return command


def test_a_build_has_a_manifest_and_says_what_to_serve_it_with(
    run: Command, environ: dict[str, str], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "built"
    done = run(output, "max_rolling_batch_size=3")
    assert done.returncode == 0, done.stderr
    assert f"lmi serve {output}" in done.stdout
    assert "build 50%" in done.stderr
    lines = (output / "serving.properties").read_text().splitlines()
    expected = {
        "option.rolling_batch=building", "option.tensor_parallel_degree=1", "option.max_rolling_batch_size=3",
        "option.depth=7",
    }  # fmt: skip
    assert set(lines) == expected
    manifest = json.loads((output / "lmi-manifest.json").read_text())
    assert manifest["model"] == str(model)
    assert manifest["versions"].keys() == {"lmi-core", "msgspec"}
    assert manifest["files"].keys() == {path.name for path in model.iterdir()}
    weights = manifest["files"]["model.safetensors"]
    assert weights == {
        "n_bytes": (output / "model.safetensors").stat().st_size,
        "sha256": sha256_of(output / "model.safetensors"),
    }
    assert [path.name for path in output.parent.iterdir()] == ["built"], "nothing else is left"
    seen = subprocess.run([*LMI, "check", str(output)], env=environ, capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stdout


def test_the_same_build_is_not_made_again_and_another_does_not_replace_it(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "built"
    assert run(output).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    again = run(output)
    assert (again.returncode, "is this build already; nothing was done" in again.stdout) == (0, True), again.stderr
    other = run(output, "depth=3")
    assert (other.returncode, "compile.output-in-use" in other.stderr) == (2, True), other.stderr
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    (output / "model.safetensors").write_bytes(b"")
    assert "a build that is not whole" in run(output).stderr


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ("raise", "engine.load-failed: the compiler refused it"),
        ("segfault", "was killed by signal 11: last words of the compiler"),
        ("nothing", "lmi_compile_artifacts of building built nothing"),
        ("unreadable", "compile.not-readable"),
    ],
)
def test_a_broken_build_leaves_nothing_and_says_why(run: Command, tmp_path: Path, build: str, said: str) -> None:
    done = run(tmp_path / "built", f"build={build}")
    assert (done.returncode != 0, said in done.stderr) == (True, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_would_stop_a_start_stops_the_build_before_it_begins(run: Command, tmp_path: Path) -> None:
    done = run(tmp_path / "built", "dept=3")
    assert (done.returncode, "Did you mean 'option.depth'" in done.stderr) == (2, True), done.stderr
    done = run(tmp_path / "built", "rolling_batch=hf")
    assert (done.returncode, "compile.nothing-to-build" in done.stderr) == (2, True), done.stderr
    (tmp_path / "model.py").write_text("def handle(inputs):\n    return None\n")
    done = run(tmp_path / "built", "rolling_batch=auto", f"entryPoint={tmp_path / 'model.py'}")
    assert (done.returncode, "compile.nothing-to-build: custom" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_processes_and_leaves_nothing(
    environ: dict[str, str], model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    flags = ["-o", "rolling_batch=building", "-o", "build=slow", "--output", str(tmp_path / "built")]
    # A shell's background job ignores interrupts, and so would what it starts.
    command = ["env", "--default-signal=INT", *LMI, "compile", str(model), *flags]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: list(tmp_path.rglob("part.bin")))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait(limit_s(30))
    assert children
    eventually(lambda: not any(child.is_running() for child in children))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "spoil", "code", "returncode"),
    [
        ((), lambda folder: (folder / "model.safetensors").unlink(), "compile.damaged", 1),
        ((), lambda folder: (folder / "tokenizer.json").write_text("{}"), "compile.damaged", 1),
        (("rolling_batch=hf",), lambda folder: (folder / "serving.properties").write_text(""), "compile.other-backend",
         0),
    ],
)  # fmt: skip
def test_the_check_reads_the_manifest_back(
    run: Command, environ: dict[str, str], tmp_path: Path, options: tuple[str, ...], spoil: Callable[[Path], None],
    code: str, returncode: int,
) -> None:  # fmt: skip
    output = tmp_path / "built"
    assert run(output).returncode == 0
    spoil(output)
    flags = [word for option in options for word in ("-o", option)]
    seen = subprocess.run(
        [*LMI, "check", str(output), *flags], env=environ, capture_output=True, text=True, check=False
    )
    assert (seen.returncode, code in seen.stdout) == (returncode, True), seen.stdout


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with running_bucket() as running:
        yield running


def test_a_build_goes_to_s3_whole_once_and_goes_on_where_it_broke_off(
    run: Command, environ: dict[str, str], bucket: Bucket
) -> None:
    url = "s3://bucket/built"
    done = run(url, **bucket.environ)
    assert done.returncode == 0, done.stderr
    assert f"lmi serve {url}" in done.stdout
    seen = subprocess.run(
        [*LMI, "check", url], env={**environ, **bucket.environ}, capture_output=True, text=True, check=False
    )
    assert seen.returncode == 0, seen.stdout
    assert "nothing was done" in run(url, **bucket.environ).stdout
    before = bucket.times("built/")
    bucket.delete("built/lmi-manifest.json")
    bucket.delete("built/config.json")
    assert "built for building" in run(url, **bucket.environ).stdout
    after = bucket.times("built/")
    assert after.keys() == before.keys()
    assert after["built/model.safetensors"] == before["built/model.safetensors"], "it was not sent again"
    assert not list(Path(environ["LMI_CACHE_DIR"], "compiled").iterdir()), "nothing is left here"


Door = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def partition(environ: dict[str, str]) -> Door:
    """``partition("--model-dir", ...)``: what LMI's own command prints and ends with."""

    def command(*words: str, name: str = "partition", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LMI, name, *words], env={**environ, **more}, capture_output=True, text=True, timeout=limit_s(120),
            check=False,
        )  # fmt: skip

    return command


def properties(folder: Path, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"option.{key}={value}" for key, value in {"rolling_batch": "building", **options}.items()]
    (folder / "serving.properties").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("name", ["partition", pytest.param("train", marks=pytest.mark.long)])
def test_the_containers_command_builds_what_the_file_says(
    partition: Door, model: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "built"
    folder = properties(tmp_path / "in", model_id=model, save_mp_checkpoint_path=output, max_rolling_batch_size=3)
    done = partition("--model-dir", str(folder), name=name)
    assert done.returncode == 0, done.stderr
    assert set((output / "serving.properties").read_text().splitlines()) == {
        "option.rolling_batch=building", "option.tensor_parallel_degree=1", "option.max_rolling_batch_size=3",
        "option.depth=7",
    }  # fmt: skip
    assert "config.overruled" not in done.stderr
    assert "nothing was done" in partition("--model-dir", str(folder), name=name).stdout


def test_a_flag_wins_over_the_file_and_says_so(partition: Door, model: Path, tmp_path: Path) -> None:
    folder = properties(
        tmp_path / "in", model_id="/nowhere", tensor_parallel_degree=2, save_mp_checkpoint_path="s3://x/y"
    )
    output = tmp_path / "built"
    flags = ("--model-id", str(model), "--tensor-parallel-degree", "1", "--save-mp-checkpoint-path", str(output))
    done = partition("--model-dir", str(folder), *flags)
    assert done.returncode == 0, done.stderr
    said = "[config.overruled] --tensor-parallel-degree 1 holds, and option.tensor_parallel_degree=2 does not"
    assert said in done.stderr
    assert "--model-id" in done.stderr and "--save-mp-checkpoint-path" in done.stderr
    assert json.loads((output / "lmi-manifest.json").read_text())["tensor_parallel_degree"] == 1


def test_without_its_folder_variables_say_everything(partition: Door, model: Path, tmp_path: Path) -> None:
    flags = ("--model-dir", "/of/another/machine", "--save-mp-checkpoint-path", str(tmp_path / "built"))
    done = partition(*flags, OPTION_MODEL_ID=str(model), OPTION_ROLLING_BATCH="building", OPTION_DEPTH="4")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "built" / "lmi-manifest.json").read_text())["options"]["depth"] == "4"
    unknown = partition(*flags)
    assert (unknown.returncode, "model.not-found" in unknown.stderr) == (2, True), unknown.stderr
    nowhere = partition("--model-dir", str(model))
    assert (nowhere.returncode, "config.no-output" in nowhere.stderr) == (2, True), nowhere.stderr


def test_a_build_without_documents_has_the_configuration_alone(partition: Door, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "built"
    flags = ("--model-dir", str(model), "--save-mp-checkpoint-path", str(output), "-o", "rolling_batch=building")
    done = partition(*flags, "--skip-copy")
    assert done.returncode == 0, done.stderr
    assert "put it there before it is served" in done.stdout
    assert {path.name for path in output.iterdir()} == {
        "config.json", "model.safetensors", "serving.properties", "lmi-manifest.json"
    }  # fmt: skip
    assert "compile.output-in-use" in partition(*flags).stderr, "the whole one is another build"


def test_a_folder_that_cannot_be_replaced_is_filled_and_gets_the_manifest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, built, order = tmp_path / "volume", tmp_path / "volume" / ".volume.part-1", []
    (built / "1").mkdir(parents=True)
    for name in ("1/rank0.engine", "lmi-manifest.json", "serving.properties"):
        (built / name).write_text("x")
    (target / "lost+found").mkdir()
    assert not is_fixed(target)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target)
    assert is_fixed(target)
    assert is_empty(target)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (order.append(path.name), rename(path, to)))
    put(built, target)
    assert (len(order), order[-1]) == (3, "lmi-manifest.json")
    assert (target / "1" / "rank0.engine").is_file()
    assert not is_empty(target)
