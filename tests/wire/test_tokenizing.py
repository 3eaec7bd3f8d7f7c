# SPDX-License-Identifier: Apache-2.0
"""``/tokenize`` and ``/detokenize``: ids of a text or a chat, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.testing import write_tiny
from tests.servers import ServerProcess, serve
from tests.wire.conftest import serve_echo

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}{{ '>' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    folder = write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with serve(str(folder), "-o", "rolling_batch=hf", "--name", "tiny") as server:
        yield server


def post(server: ServerProcess, path: str, **body: Any) -> dict[str, Any]:
    answer = server.post(body, path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_text_becomes_ids_and_the_ids_a_text(server: ServerProcess) -> None:
    found = post(server, "/tokenize", prompt="Grüße", add_special_tokens=False, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert "".join(found["token_strs"]) == "Grüße"
    assert post(server, "/detokenize", tokens=found["tokens"]) == {"prompt": "Grüße"}


def test_special_tokens_are_added_to_a_text_and_not_to_a_chat(server: ServerProcess) -> None:
    text = post(server, "/tokenize", prompt="hello")["tokens"]
    bare = post(server, "/tokenize", prompt="hello", add_special_tokens=False)["tokens"]
    assert text[-len(bare) :] == bare
    chat = post(server, "/tokenize", messages=[{"role": "user", "content": "hello"}], add_generation_prompt=False)
    assert chat["tokens"].count(chat["tokens"][0]) == 1, "the template writes the first token, and nobody else"
    longer = post(server, "/tokenize", messages=[{"role": "user", "content": "hello"}])
    assert longer["count"] == chat["count"] + 1


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/tokenize", {}, "there must be a prompt or messages"),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "and not both"),
        ("/tokenize", {"promt": "x"}, "Did you mean 'prompt'?"),
        ("/detokenize", {"tokens": [100000]}, "the prompt has the id 100000"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
    ],
)
def test_what_is_wrong_is_said(server: ServerProcess, path: str, body: dict[str, Any], said: str) -> None:
    answer = server.post(body, path)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_model_of_bytes_has_ids_too(tmp_path: Path) -> None:
    with serve_echo() as server:
        assert post(server, "/tokenize", prompt="ab")["tokens"] == [97, 98]
