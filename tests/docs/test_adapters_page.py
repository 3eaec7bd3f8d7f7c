# SPDX-License-Identifier: Apache-2.0
"""docs/adapters.md: its commands get the answers it shows, from a real server."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lmi.serving.adapters import AdapterState
from lmi.testing import write_tiny, write_tiny_adapter
from tests.docs.pages import Page, code
from tests.faults.conftest import FaultyServer, faulty_path, serve_faulty
from tests.servers import ServerProcess

__all__ = ["faulty_path", "serve_faulty"]

PAGE = Page("adapters.md")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page has at /models."""
    path = tmp_path_factory.mktemp("models")
    llama = write_tiny("llama", path / "llama")
    for name in ("llama/adapters/de", "llama/adapters/fr", "more/it"):
        write_tiny_adapter(path / name, llama)
    return path


@pytest.fixture(scope="module")
def server(serve_faulty: FaultyServer, root: Path) -> Iterator[ServerProcess]:
    with serve_faulty(str(root / "llama")) as process:
        yield process


def shown() -> list[tuple[list[str], str]]:
    """The curl lines, as words, each with the answer behind it; empty where it shows none."""
    listings = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.text, re.MULTILINE | re.DOTALL)
    following = itertools.pairwise([*listings, ("", "")])
    return [
        (shlex.split(asked), answer.strip() if kind == "json" else "")
        for (_, asked), (kind, answer) in following
        if asked.startswith("curl")
    ]


def sent(server: ServerProcess, words: list[str], root: Path) -> httpx.Response:
    options = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i] in ("-d", "-X")}
    [url] = [word for word in words if word.startswith("http://localhost:8080/")]
    content = options.get("-d", "").replace("/models/", f"{root}/").encode()
    method = options.get("-X", "POST" if content else "GET")
    with server.client() as client:
        return client.request(method, url.removeprefix("http://localhost:8080"), content=content)


def test_the_answers_on_the_page_are_those_of_a_server(server: ServerProcess, root: Path) -> None:
    assert len([answer for _, answer in shown() if answer]) == 5
    for words, answer in shown():
        response = sent(server, words, root)
        if answer:
            assert response.text.replace(f"{root}/", "/models/") == answer
        else:
            assert response.status_code == 200, response.text


def test_every_way_to_name_an_adapter_on_the_page_reaches_it(server: ServerProcess) -> None:
    rows = PAGE.rows("Which one answers")
    assert len(rows) == 5
    for _, example in rows:
        [text] = code(example)
        body, path, headers = '{"inputs": "Hello", "parameters": {"max_new_tokens": 1}}', "/invocations", {}
        if text.startswith("{"):
            body = text
        elif text.startswith("/"):
            path = text
        else:
            headers = dict([text.split(": ")])
        with server.client() as client:
            known = client.post(path, content=body, headers=headers)
            other = client.post(
                path.replace("fr", "xx"),
                content=body.replace('"fr"', '"xx"'),
                headers={name: value.replace("fr", "xx") for name, value in headers.items()},
            )
        assert (known.status_code, other.status_code) == (200, 404), text
        assert "has no adapter 'xx'" in other.text


def test_every_state_is_on_the_page() -> None:
    [sentence] = re.findall(r"^- `state` is (.*?);", PAGE.text, re.MULTILINE)
    assert set(code(sentence)) == {*(state.value for state in AdapterState), "failed"}
