# SPDX-License-Identifier: Apache-2.0
"""A server with adapters, and what the tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.faults.conftest import FaultyServer
from tests.servers import ServerProcess

IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"
TINY = ("-o", "offset=-33", "-o", "step_s=0.001")
"""The tokenizer of a tiny model begins with the letter 33."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two adapters beside it, and one elsewhere."""
    path = write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")
    for name in ("fr", "de"):
        write_tiny_adapter(path / "adapters" / name, path)
    write_tiny_adapter(path.parent / "more" / "it", path)
    return path


@pytest.fixture(scope="module")
def server(serve_faulty: FaultyServer, folder: Path) -> Iterator[ServerProcess]:
    with serve_faulty(str(folder), *TINY) as process:
        yield process


def text_of(server: ServerProcess, query: str = "", headers: dict[str, str] | None = None, **body: Any) -> str:
    wanted = {"inputs": "abc", "parameters": {"max_new_tokens": 6}, **body}
    response = server.post(wanted, f"/invocations{query}", headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["generated_text"])


def asked(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.request(method, path, **options)


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    return str(response.json()["message"])
