# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters on the real vLLM: beside the model, over HTTP, many in one batch, and after a death."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny_adapter
from tests.backends.adapted_servers import (
    SEEDS,
    AdaptedServer,
    answered,
    expected,
    folder,
    of,
    together,
    write_strange_adapter,
)
from tests.backends.vllm_servers import running
from tests.servers import ServerProcess, in_threads
from tests.wire.adapter_servers import asked, refused

__all__ = ["expected", "folder"]

pytestmark = pytest.mark.long

LONG = "Once upon a time there was a king. " * 8
"""More than a block of vLLM's cache, so that it is kept."""


@pytest.fixture(scope="module")
def server(folder: Path, vllm_python: str) -> Iterator[ServerProcess]:
    # Fewer places than adapters: vLLM changes them while requests wait.
    with running(folder, vllm_python, "enable_lora=true", "max_loras=2", "max_lora_rank=8") as process:
        yield process


def test_the_cache_of_one_adapters_prompt_is_not_anothers(
    server: ServerProcess, expected: dict[str, list[list[int]]]
) -> None:
    first, second, base, again = (answered(server, LONG, name) for name in ("fr", "de", "", "fr"))
    assert first == again
    assert first != second != base != first


def test_a_pinned_adapter_keeps_its_place_and_requests_for_others_share_the_rest(
    server: ServerProcess, folder: Path, expected: dict[str, list[list[int]]]
) -> None:
    """Of two places one is left; without a queue before it, vLLM would put two others into one batch and end."""
    [pid] = server.worker_pids()
    src = str(folder.parent / "more" / "it")
    assert asked(server, "POST", "/adapters", json={"name": "it", "src": src}).status_code == 200

    def pin() -> int:
        return asked(server, "POST", "/adapters/fr/update", json={"pin": True}).status_code

    answers, status = in_threads([lambda: together(server, "de", "it"), pin])  # pinned while others have both places
    assert (answers, status) == (of(expected, "de", "it"), 200)
    assert together(server, "de", "it") == of(expected, "de", "it")
    assert together(server, *SEEDS) == of(expected, *SEEDS)
    body = {"name": "second", "src": src, "pin": True}
    message = refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.too-many-pinned")
    assert "1 adapter is pinned, and max_loras is 2" in message
    assert asked(server, "POST", "/adapters/fr/update", json={"pin": False}).status_code == 200
    assert together(server, *SEEDS) == of(expected, *SEEDS)
    assert asked(server, "DELETE", "/adapters/it").status_code == 200
    assert server.worker_pids() == [pid]


def test_a_folder_that_holds_other_weights_by_now_answers_with_those(
    server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    for name in ("fr", "de"):
        write_tiny_adapter(tmp_path / "new", folder, rank=8, seed=SEEDS[name])
        body = {"name": "new", "src": str(tmp_path / "new")}
        assert asked(server, "POST", "/adapters", json=body).status_code == 200
        assert answered(server, LONG, "new") == answered(server, LONG, name)
        assert asked(server, "DELETE", "/adapters/new").status_code == 200


def test_an_adapter_that_cannot_be_loaded_is_refused_and_the_engine_lives(
    server: ServerProcess, folder: Path, tmp_path: Path, expected: dict[str, list[list[int]]]
) -> None:
    [pid] = server.worker_pids()
    body = {"name": "bad", "src": "/no/such/folder"}
    refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.bad-source")
    body = {"name": "bad", "src": str(write_strange_adapter(tmp_path / "strange", folder))}
    message = refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.not-loadable")
    assert "vLLM cannot load adapter 'bad'" in message
    assert together(server, "fr") == of(expected, "fr")
    assert server.worker_pids() == [pid]


class TestOverHttp(AdaptedServer):
    """Fewer places than adapters, many requests, and a death."""
