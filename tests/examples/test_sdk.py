# SPDX-License-Identifier: Apache-2.0
"""examples/sagemaker/sdk: a notebook's way from an archive to an answer, with the SDK in an environment of its own.

The SDK's environment takes half a gigabyte, so it is made here, and only for the long tests.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.examples.dockerfiles import ROOT
from tests.examples.world import commands
from tests.limits import limit_s
from tests.sagemaker.emulators import QUICK, emulator

SDK = ROOT / "examples" / "sagemaker" / "sdk"
NOTEBOOK = Path(__file__).with_name("notebook.py")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdk") / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "--quiet", "-r", SDK / "requirements.txt", "moto[sagemaker,s3]"]
    subprocess.run(install, check=True, timeout=limit_s(600))
    return folder / "bin" / "python"


def test_the_sdk_deploys_asks_and_removes_an_archive(python: Path, tmp_path: Path) -> None:
    lines = commands(Page("deploy/4-endpoint.md").text)
    [packing] = [line for line in lines if line.startswith("tar ")]
    [deploying] = [line for line in lines if "sdk/deploy.py" in line]
    archive_here = str(tmp_path / "model.tar.gz")
    subprocess.run(["sh", "-c", packing.replace("model.tar.gz", archive_here)], cwd=ROOT, check=True)
    # moto's list of instance types is an old one.
    words = shlex.split(
        deploying.replace("ml.g5.12xlarge", "ml.g4dn.12xlarge").replace("model.tar.gz", str(tmp_path / "model.tar.gz"))
    )
    with emulator(
        "-o", "rolling_batch=echo", "--endpoint", "my-endpoint", *QUICK, str(tmp_path), is_ready=False
    ) as local:
        local.in_service("my-endpoint")
        done = subprocess.run(
            [python, NOTEBOOK, local.url, *words[1:], "--endpoint-name", "my-endpoint"], cwd=ROOT,
            env={**os.environ, "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}, capture_output=True, text=True,
            timeout=limit_s(300), check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, told = done.stdout.splitlines()[-2:]
    assert answer.lstrip("-*!") == "{'generated_text': 'The capital of F'}"  # behind the SDK's signs of waiting
    made, left = json.loads(told)["made"], json.loads(told)["left"]
    assert made["CreateModel"]["PrimaryContainer"]["Image"] == "IMAGE"
    [archive] = left.pop("objects")
    assert made["CreateModel"]["PrimaryContainer"]["ModelDataUrl"] == archive
    assert made["CreateEndpointConfig"]["ProductionVariants"][0]["ContainerStartupHealthCheckTimeoutInSeconds"] == 900
    assert left == {"endpoints": [], "configs": [], "models": []}
