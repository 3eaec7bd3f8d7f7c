# SPDX-License-Identifier: Apache-2.0
"""Long conversations become prompts beside the event loop, in templates that several threads render at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ModelArtifacts, RequestError
from lmi.serving.chat_environment import MAX_STEPS
from lmi.serving.chat_template import ChatTemplate, load_chat_template
from lmi.serving.token_decoder import TableDecoder
from lmi.serving.tokenizer import ByteTokenizer
from tests.core.scripted import Face, Script

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
SCRIPT = Script((97,))


@pytest.fixture(scope="module")
def face() -> Iterator[Face]:
    made = Face(ByteTokenizer(), chat_template=TEMPLATE)
    yield made
    made.close()


@pytest.fixture
def renderers(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that rendered a template."""
    found = []
    render = ChatTemplate.render

    def recorded(*args: Any, **more: Any) -> str:
        found.append(threading.current_thread())
        return render(*args, **more)

    monkeypatch.setattr(ChatTemplate, "render", recorded)
    return found


def turns(n: int, text: str = "a") -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index in range(n)]


@pytest.mark.parametrize(
    ("messages", "is_beside"),
    [(turns(10), False), (turns(5000), True), (turns(2, "a" * 40_000), True)],
)
@pytest.mark.parametrize(("path", "name"), [("/v1/chat/completions", "messages"), ("/v1/responses", "input")])
def test_a_long_conversation_is_rendered_beside_the_loop_and_a_short_one_at_once(
    face: Face, renderers: list[threading.Thread], path: str, name: str, messages: list[Any], is_beside: bool
) -> None:
    most = {"messages": "max_tokens", "input": "max_output_tokens"}[name]
    face.ask(SCRIPT, path, {name: messages, most: 1})
    assert [each is not threading.main_thread() for each in renderers] == [is_beside]


def test_a_chat_of_tokenize_is_rendered_beside_the_loop(face: Face, renderers: list[threading.Thread]) -> None:
    assert face.ask(SCRIPT, "/tokenize", {"messages": turns(500)}).json()["count"] == 500
    assert threading.main_thread() not in renderers


@pytest.mark.parametrize(
    ("path", "body"),
    [("/detokenize", {"tokens": [97] * 50_000}), ("/v1/completions", {"prompt": [97] * 50_000, "max_tokens": 1})],
)
def test_many_ids_become_a_text_beside_the_loop(
    face: Face, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    many = []
    push = TableDecoder.push

    def recorded(self: TableDecoder, ids: Any) -> list[str]:
        if len(ids) > 1000:
            many.append(threading.current_thread())
        return push(self, ids)

    monkeypatch.setattr(TableDecoder, "push", recorded)
    face.ask(SCRIPT, path, body)
    assert many and threading.main_thread() not in many


def test_wrong_ids_are_refused_wherever_they_are_read(face: Face) -> None:
    with pytest.raises(AssertionError, match="the prompt has the id 300"):
        face.ask(SCRIPT, "/detokenize", {"tokens": [97] * 50_000 + [300]})


FAMILIES = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize("file", FAMILIES, ids=lambda file: file.stem)
def test_threads_that_render_one_template_do_not_disturb_each_other(file: Path) -> None:
    template = load_chat_template(ModelArtifacts(), "{% set bos_token, eos_token = '<s>', '</s>' %}" + file.read_text())
    conversations = [turns(40 + 2 * index + 1, f"text {index}") for index in range(8)]
    alone = [template.render(messages) for messages in conversations]
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # in turns of a few steps
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(5):
                assert list(threads.map(template.render, conversations)) == alone
    finally:
        sys.setswitchinterval(before_s)


def test_each_thread_counts_the_steps_of_its_own_rendering() -> None:
    text = "{% for _ in range(n) %}{% for _ in range(1000) %}{% endfor %}{% endfor %}done"
    template = load_chat_template(ModelArtifacts(), text)
    n_most = MAX_STEPS // 1001

    def render(n: int) -> str:
        try:
            return template.render(turns(1), n=n)
        except RequestError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        first, *others, last = threads.map(render, [n_most - 5] * 3 + [n_most + 5])
    assert [first, *others] == ["done"] * 3
    assert f"more than {MAX_STEPS} steps" in last
