# SPDX-License-Identifier: Apache-2.0
"""What the commands of pages meet: AWS as moto has it, a hub, and a folder with a model and the examples."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from lmi.cli.main import cli
from lmi.testing import write_tiny
from lmi_trtllm.partition import command as command_of_script
from tests.buckets import running_bucket
from tests.examples.dockerfiles import ROOT
from tests.hubs import Repository, started_hub
from tests.limits import limit_s

MODEL_ID = "meta-llama/Llama-2-13b-hf"
IMAGES = ("lmi-hf", "lmi-tensorrt-llm", "lmi-neuron", "IMAGE")


def commands(text: str) -> list[str]:
    """The commands in the listings ``sh`` of a page."""
    listings = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for listing in listings for line in listing.splitlines()]


@dataclass
class World:
    """One of them.

    Args:
        folder: in which commands run; ``model`` and ``examples`` are there.
        environ: their variables.
        names: what a page calls something -> what it is here.
    """

    folder: Path
    environ: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, **environ: str) -> str:
        """What a command prints; ``export`` holds for those after it."""
        for written, meant in self.names.items():
            command = re.sub(rf"(?<![\w-]){re.escape(written)}(?![\w-])", meant, command)
        words = shlex.split(command)
        if words[0] == "export":
            self.environ |= dict(pair.split("=", 1) for pair in words[1:])
            return ""
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env={**self.environ, **environ}, timeout=limit_s(120),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def json(self, command: str) -> Any:
        """What a command prints, read."""
        return json.loads(self.run(command))

    def run_all(self, lines: list[str]) -> dict[str, str]:
        """Run what can be run, look at the words of what cannot; what each printed."""
        told = {}
        for line in lines:
            if is_elsewhere(line):
                judge(line)
            else:
                told[line] = self.run(line)
        return told


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """One for the length of a block."""
    (folder / "examples").symlink_to(ROOT / "examples")
    model = write_tiny("llama", folder / "model")
    content = {path.name: path.read_bytes() for path in model.iterdir()}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with running_bucket() as bucket, started_hub({MODEL_ID: Repository(content)}) as hub:
        environ = {
            **os.environ, **bucket.environ, "AWS_DEFAULT_REGION": "us-east-1", "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub"), "LMI_CACHE_DIR": str(folder / "cache"),
            "PATH": path, "HOME": str(folder),
        }  # fmt: skip
        s3 = boto3.client("s3", endpoint_url=bucket.environ["AWS_ENDPOINT_URL"], region_name="us-east-1",
                          aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
        s3.create_bucket(Bucket="my-bucket")
        yield World(folder, environ, {"ROLE": "arn:aws:iam::123456789012:role/lmi"})


def is_elsewhere(line: str) -> bool:
    """Whether a command needs what is not here: Docker, or a terminal of its own for a server."""
    words = shlex.split(line)
    return words[0] == "docker" or words[:2] in (["lmi", "serve"], ["lmi", "sagemaker-local"]) or "docker run" in line


def judge(line: str) -> None:
    """Look at the words of a command that is not run.

    Raises:
        AssertionError, click.UsageError, SystemExit: they are wrong.
    """
    words = shlex.split(line)
    if words[0] == "lmi":
        judge_lmi(words)
        for place, word in enumerate(words):
            if word == "--command":
                judge_docker(shlex.split(words[place + 1]))
    else:
        judge_docker(words)


def judge_lmi(words: list[str]) -> None:
    """Words of ``lmi``."""
    import click

    context = click.Context(cli)
    name, command, rest = cli.resolve_command(context, words[1:])
    assert command is not None
    command.make_context(name, list(rest))


def judge_docker(words: list[str]) -> None:
    """Words of ``docker run IMAGE ...``; the container's own are judged as its entry point would take them."""
    assert words[:2] == ["docker", "run"], words
    parser = argparse.ArgumentParser(prog="docker run", exit_on_error=True, add_help=False)
    for flag in ("--rm",):
        parser.add_argument(flag, action="store_true")
    for flag in ("--runtime", "--gpus", "--shm-size", "--network", "--env-file", "--device", "-p", "-v", "-e"):
        parser.add_argument(flag, action="append")
    parser.add_argument("image", choices=IMAGES)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args(words[2:])
    for file in given.env_file or []:
        assert (ROOT / file).is_file(), file
    first = given.words[0]
    if first == "python":
        assert given.words[1] == "/opt/djl/partition/trt_llm_partition.py"
        judge_lmi(["lmi", *command_of_script(given.words[2:])])
    else:
        assert first in ("serve", "partition", "train")
        judge_lmi(["lmi", *given.words])


def variables(file: Path) -> Mapping[str, str]:
    """An environment file, as Docker reads it."""
    return dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines())
