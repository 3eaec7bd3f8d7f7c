# SPDX-License-Identifier: Apache-2.0
"""Many texts in one body: while they are made ready, others have their turn."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lmi.serving.lists import answer_several
from lmi.serving.openai_bodies import CompletionBody
from lmi.serving.openai_completions import Completions
from lmi.serving.streaming import EVENTS, Exchange
from tests.core.answering import Rig, play

N_TEXTS = 50


def exchange() -> Exchange:
    async def send(message: Any) -> None:
        pass

    async def receive() -> Any:
        await asyncio.sleep(3600)

    return Exchange({"headers": []}, receive, send)


async def as_list(rig: Rig) -> None:
    context: Any = SimpleNamespace(formats_response=None, metrics=SimpleNamespace(count=lambda *_: None))
    data = {"inputs": ["Once"] * N_TEXTS, "parameters": {"max_new_tokens": 1}}
    await answer_several(context, rig.model, exchange(), data, b"")


async def as_prompts(rig: Rig) -> None:
    body = CompletionBody(prompt=["Once"] * N_TEXTS, max_tokens=1)
    await Completions(rig.model, exchange(), EVENTS, body, "").start()


@pytest.mark.parametrize("ask", [as_list, as_prompts])
def test_others_have_their_turn_between_two_texts(ask: Any) -> None:
    async def scenario(rig: Rig) -> None:
        n_turns = n_before_start = 0

        async def others() -> None:
            nonlocal n_turns, n_before_start
            while not rig.pool.groups:
                n_turns += 1
                await asyncio.sleep(0)
            n_before_start = n_turns

        turns = asyncio.ensure_future(others())
        await ask(rig)
        await turns
        assert n_before_start >= N_TEXTS - 1

    play(scenario)
