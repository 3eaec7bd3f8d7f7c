# SPDX-License-Identifier: Apache-2.0
"""docs/embeddings.md: its commands work on a real server, its tables have every name and parameter."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lmi.api import TASK_NAMES, Task
from lmi.serving.vector_bodies import VectorParameters
from tests.backends.pooling_models import write_bert
from tests.docs.pages import Page, code
from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.test_embeddings import Serve, serve_vectors

__all__ = ["serve_vectors"]

PAGE = Page("embeddings.md")


@pytest.fixture(scope="module")
def servers(serve_vectors: Serve) -> Iterator[dict[str, ServerProcess]]:
    """A server for each section that has commands."""
    with ExitStack() as stack:
        vectors = stack.enter_context(serve_vectors("task=text-embedding", "max_model_len=512"))
        labels = stack.enter_context(serve_vectors("task=text-classification", "max_model_len=512"))
        yield {"Vectors": vectors, "OpenAI's clients": vectors, "Labels": labels}


def listings(title: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.section(title), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("title", ["Vectors", "OpenAI's clients", "Labels"])
def test_the_commands_of_the_page_are_answered(servers: dict[str, ServerProcess], title: str) -> None:
    server = servers[title]
    commands = listings(title, "bash")
    assert commands
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        path = next(word for word in words if word.startswith("http://localhost:8080/")).partition(":8080")[2]
        response = server.post(words[words.index("-d") + 1].encode(), path)
        assert response.status_code == 200, response.text
        for shown in listings(title, "json"):
            assert response.text == shown.strip()


def test_the_program_with_openais_client_runs_as_it_stands(servers: dict[str, ServerProcess]) -> None:
    (program,) = listings("OpenAI's clients", "python")
    server = servers["OpenAI's clients"]
    program = program.replace("http://localhost:8080", server.url)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=limit_s(60), check=True
    )
    assert run.stdout.split() == ["2", str(len("What is deep learning?") + len("How do I peel an orange?"))]


def test_the_properties_of_the_page_are_a_model_that_would_be_served(tmp_path: Path) -> None:
    (properties,) = listings("Which task", "properties")
    folder = write_bert(tmp_path / "bert")
    (tmp_path / "serving.properties").write_text(properties.replace("/models/bert", str(folder)))
    command = [str(Path(sys.executable).with_name("lmi")), "check", str(tmp_path), "--devices", "cuda:1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(60), check=False)
    assert "would be served by vllm" in run.stdout, run.stdout + run.stderr


def test_the_refusal_on_the_page_is_what_is_said(tmp_path: Path) -> None:
    (told,) = listings("Which task", "text")
    folder = write_bert(tmp_path / "bert")
    command = [str(Path(sys.executable).with_name("lmi")), "check", str(folder), "-o", "rolling_batch=hf"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(60), check=False)
    assert " ".join(told.split()) in " ".join((run.stdout + run.stderr).split())


def test_every_spelling_of_a_task_is_on_the_page_and_no_other() -> None:
    rows = {
        "vectors": Task.EMBED,
        "labels": Task.CLASSIFY,
        "labels of words": Task.TOKEN_CLASSIFICATION,
        "words for masks": Task.FILL_MASK,
        "answers to questions": Task.QUESTION_ANSWERING,
        "text": Task.GENERATE,
    }
    told = {name: rows[what] for what, names, _ in PAGE.rows("Which task") for name in code(names)}
    assert told == TASK_NAMES


def test_every_parameter_of_vectors_is_on_the_page_and_no_other() -> None:
    assert {name for cell, *_ in PAGE.rows("Vectors") for name in code(cell)} == set(VectorParameters.model_fields)
