# SPDX-License-Identifier: Apache-2.0
"""docs/deploy: every command of the chapters runs, or its words are judged where it needs a container engine."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny_adapter
from tests.docs.pages import DOCS, Page
from tests.examples.world import World, commands, world
from tests.faults.conftest import faulty_path
from tests.sagemaker.emulators import QUICK, emulator
from tests.servers import serve

__all__ = ["faulty_path"]

CHAPTERS = [each.name for each in sorted((DOCS / "deploy").glob("[1-6]-*.md"))]
ECHO = ("-o", "rolling_batch=echo")
SDK = "python examples/sagemaker/sdk/deploy.py"
CDK = ("pip install -r examples/sagemaker/cdk/", "cdk ")
COMPONENT = "--component"


def of(chapter: str) -> list[str]:
    return commands(Page(f"deploy/{chapter}").text)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a server, and two endpoints in front of others."""
    with world(tmp_path_factory.mktemp("world")) as found:
        (found.folder / "prompts.jsonl").write_text('{"inputs": "Hello", "parameters": {"max_new_tokens": 2}}\n')
        (found.folder / "echo").mkdir()
        (found.folder / "echo" / "serving.properties").write_text("option.rolling_batch=echo\n")
        names = ("my-endpoint", "my-async-endpoint")
        words = [f"{name}={found.folder / 'echo'}" for name in names] + ["--async-output", "s3://my-bucket/answers"]
        aws = {key: value for key, value in found.environ.items() if key.startswith("AWS_")}
        with serve(*ECHO) as server, emulator(*words, *QUICK, environ=aws, is_ready=False) as local:
            for name in names:
                local.in_service(name)
            found.names |= {"http://localhost:8080": server.url, "http://127.0.0.1:8081": local.url}
            found.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = local.url
            yield found
            # How long things take depends on what else runs on this machine.
            assert [each for each in local.violations() if not each["rule"].endswith(".time")] == []


@pytest.mark.parametrize("chapter", [each for each in CHAPTERS if each[0] in "123"])
def test_what_needs_no_endpoint_runs(here: World, chapter: str) -> None:
    told = here.run_all(of(chapter))
    assert len(told) > 2
    for line, text in told.items():
        if line.startswith(("lmi check", "env ")):
            assert "would be served by" in text


def test_an_endpoint_is_made_asked_and_removed(here: World) -> None:
    here.run("aws s3 cp model s3://my-bucket/llama/ --recursive")
    lines = of("4-endpoint.md")
    own = [line for line in lines if line.startswith((SDK, *CDK))]  # examples/test_sdk.py and test_cdk.py run them
    assert len(own) == 4
    told = here.run_all([line for line in lines if line not in own])
    asked = [text for line, text in told.items() if "invoke.py" in line or "stream.py" in line]
    assert len(asked) == 4
    assert all(("The capital of France is" * 3).startswith(text.strip()) and len(text) > 16 for text in asked)
    [name] = [text for line, text in told.items() if "describe-stacks" in line]
    assert name.strip()
    for what in ("list-endpoints", "list-endpoint-configs", "list-models"):
        assert not any(here.json(f"aws sagemaker {what}").values()), what


def test_an_endpoint_is_measured_through_the_runtimes_route(here: World) -> None:
    told = here.run_all(of("5-benchmark.md"))
    [measured] = [text for line, text in told.items() if "--endpoint my-endpoint" in line]
    assert re.search(r"\n +4 +16 +0 .*\nnext: ", measured)
    assert (here.folder / "measured" / "report.html").is_file()


@pytest.mark.long
def test_what_the_last_chapter_shows_runs(here: World) -> None:
    here.run("aws s3 cp model s3://my-bucket/llama/ --recursive")
    lines = of("6-advanced.md")
    [again] = [line for line in lines if line.endswith("--session ID")]
    told = here.run_all([line for line in lines if COMPONENT not in line and line != again])
    [answer] = [text for line, text in told.items() if "invoke_async.py" in line]
    assert answer == "Hello" * 12 + "Hell\n"
    assert (here.folder / "answers.jsonl").read_text().count("\n") == 1
    [session] = [text for line, text in told.items() if "NEW_SESSION" in line]
    opened = re.fullmatch(r"([\w-]+)\n(Hello)+Hell\n", session)
    assert opened
    assert here.run(again.removesuffix("ID") + opened[1]).startswith("Hello again")


def test_an_adapter_is_asked_as_an_inference_component(here: World, faulty_path: Path) -> None:
    lines = of("6-advanced.md")
    [starting] = [line for line in lines if "--adapter" in line]
    [asking] = [line for line in lines if COMPONENT in line]
    write_tiny_adapter(here.folder / "french", here.folder / "model")
    line = starting.replace("$PWD", str(here.folder)).replace("enable_lora=true", "offset=-33")
    words = shlex.split(line.replace("=vllm", "=faulty"))[2:]  # vLLM is not in the environment of the tests
    with emulator(*words, *QUICK, environ={"PYTHONPATH": str(faulty_path)}, cwd=here.folder, is_ready=False) as local:
        local.in_service("my-endpoint")
        adapted = here.run(asking, AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=local.url)
        base = here.run(asking.replace("french", "base"), AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=local.url)
    assert adapted != base


def test_every_chapter_leads_to_the_next_and_the_first_page_to_all() -> None:
    first = Page("deploy/README.md").text
    assert len(CHAPTERS) == 6
    assert re.findall(r"\(([1-6]-[a-z]+\.md)\)", first) == CHAPTERS
    for chapter, following in itertools.pairwise(CHAPTERS):
        assert f"\nNext: [{following[2:-3]}]({following})\n" in Page(f"deploy/{chapter}").text


@pytest.mark.parametrize("name", ["README.md", *CHAPTERS])
def test_every_link_of_a_chapter_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", Page(f"deploy/{name}").text):
        assert (DOCS / "deploy" / target).exists(), target


def test_every_option_that_is_named_is_one(here: World) -> None:
    known = set(re.findall(r"option\.\w+", Page("config.md").text))
    for chapter in CHAPTERS:
        named = set(re.findall(r"`(option\.\w+)", Page(f"deploy/{chapter}").text))
        assert named <= known, chapter
