# SPDX-License-Identifier: Apache-2.0
"""Text that comes to light when all tokens have been given: the end of a character that was never completed."""

from __future__ import annotations

import pytest

from lmi.api import Finish, FinishReason, TextToken, TokenChunk
from tests.core.test_generation import LENGTH, Rig, play


@pytest.mark.parametrize("keeps_tokens", [False, True])
def test_text_that_comes_to_light_behind_the_last_token_comes_with_that_token_again(keeps_tokens: bool) -> None:
    async def scenario(rig: Rig) -> None:
        rig.arrive("a")
        assert await rig.texts() == ["a"]
        rig.generation.flight.on_chunk(TokenChunk(list("é".encode()[:1])))
        assert await rig.texts() == [""]
        rig.arrive("", Finish(FinishReason.DEADLINE))
        assert await rig.generation.next() == [TextToken(195, "\ufffd")]
        assert (rig.generation.text, rig.generation.n_output_tokens) == ("a\ufffd", 2)
        kept = [TextToken(97, "a"), TextToken(195, "\ufffd")]
        assert rig.generation.tokens == (kept if keeps_tokens else [])

    play(scenario, keeps_tokens=keeps_tokens)


def test_a_stop_sequence_that_is_complete_with_the_rest_of_a_character_is_why_the_text_ended() -> None:
    async def scenario(rig: Rig) -> None:
        rig.generation.flight.on_chunk(TokenChunk([97, 195], finish=LENGTH))
        result = await rig.generation.result()
        assert (result.text, result.finish_reason, result.n_output_tokens) == ("a", "stop_sequence", 2)

    play(scenario, stop=("\ufffd",))
