# SPDX-License-Identifier: Apache-2.0
"""The engine of trtllm on a stand-in: the whole contract, and what the contract does not ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmi.api import (
    Constraint,
    EngineDeadError,
    Finish,
    FinishReason,
    GenerationRequest,
    LmiError,
    NotFoundError,
    RequestError,
    TokenChunk,
    UnsupportedError,
)
from lmi.testing import BackendContract, write_tiny
from lmi_trtllm.contract import CASE
from tests.backends.trtllm_standin import (
    PROMPT,
    answer,
    cache,
    folder,
    ids_of,
    installed,
    load,
    request,
    running,
    standin,
)

__all__ = ["cache", "folder", "standin"]


@pytest.fixture(scope="class")
def _class_standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("standin") / "site"):
        yield


@pytest.mark.usefixtures("_class_standin")
class TestTrtllmOnAStandIn(BackendContract):
    case = replace(CASE, is_exact=True)


# ---------------------------------------------------------------------------------------------------------- generation


def test_both_ways_give_the_same_ids(standin: Path, folder: Path) -> None:
    found = []
    for backend in ("pytorch", "tensorrt"):
        engine = load(folder, backend=backend)
        found.append(ids_of(running(engine, lambda engine=engine: answer(engine, request(max_tokens=12)))))
    assert found[0] == found[1] and len(found[0]) == 12


def test_until_min_tokens_ids_that_end_a_text_are_forbidden_and_what_follows_is_the_same_request(
    standin: Path, folder: Path
) -> None:
    engine = load(folder)

    async def scenario() -> tuple[list[int], list[TokenChunk]]:
        plain = ids_of(await answer(engine, request(max_tokens=8)))
        asked = request(max_tokens=8, min_tokens=4, stop_token_ids=(plain[1], plain[6]), n_logprobs=1)
        return plain, await answer(engine, asked)

    plain, chunks = running(engine, scenario)
    found = ids_of(chunks)
    assert plain[1] not in found[:4] and len(found) >= 4
    assert [score.id for chunk in chunks for score in chunk.logprobs or []] == found
    assert [chunk.finish is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage is not None and chunks[-1].usage.n_output_tokens == len(found)


def test_a_stop_id_is_the_last_id_and_an_end_of_sequence_id_is_too(standin: Path, tmp_path: Path) -> None:
    engine = load(write_tiny("llama", tmp_path / "model"))
    plain = ids_of(running(engine, lambda: answer(engine, request(max_tokens=6))))
    ending = load(write_tiny("llama", tmp_path / "ending", eos_token_id=plain[2]))

    async def scenario() -> tuple[list[TokenChunk], list[TokenChunk]]:
        by_stop = await answer(ending, request(max_tokens=6, stop_token_ids=(plain[1],)))
        return by_stop, await answer(ending, request(max_tokens=6, ignore_eos=False))

    by_stop, by_eos = running(ending, scenario)
    assert ids_of(by_stop) == plain[:2] and by_stop[-1].finish == Finish(FinishReason.STOP_TOKEN, plain[1])
    assert ids_of(by_eos) == plain[:3] and by_eos[-1].finish == Finish(FinishReason.EOS, plain[2])


def test_closing_a_stream_aborts_it_within_a_step(standin: Path, folder: Path) -> None:
    engine = load(folder)
    executor = engine.llm._executor

    async def scenario() -> int:
        stream = engine.generate(request(max_tokens=400))
        await stream.__anext__()
        (work,) = executor._works
        await stream.aclose()
        n_before = len(work.sequence.output)
        while executor._works:
            await asyncio.sleep(0.001)
        return len(work.sequence.output) - n_before

    assert running(engine, scenario) <= 1


def test_what_was_resumed_is_read_as_prompt_and_counts_as_output(standin: Path, folder: Path) -> None:
    engine = load(folder, max_input_len=4, max_output_len=8)  # the resumed ids make the prompt longer than it may be

    async def scenario() -> tuple[list[int], list[TokenChunk], list[TokenChunk]]:
        whole = ids_of(await answer(engine, request(max_tokens=8)))
        rest = await answer(engine, request(max_tokens=8, resumed_ids=whole[:5]))
        return whole, rest, await answer(engine, request(max_tokens=5, resumed_ids=whole[:5]))

    whole, rest, done = running(engine, scenario)
    assert ids_of(rest) == whole[5:]
    assert rest[-1].usage is not None and rest[-1].usage.n_prompt_tokens == len(PROMPT)
    assert (ids_of(done), done[-1].finish) == ([], Finish(FinishReason.LENGTH))


@pytest.mark.parametrize("options", [{}, {"backend": "tensorrt", "gather_context_logits": True}])
def test_the_prompts_log_probabilities_are_those_that_the_same_ids_have_as_output(
    standin: Path, folder: Path, options: dict[str, Any]
) -> None:
    engine = load(folder, **options)

    async def scenario() -> tuple[list[TokenChunk], list[TokenChunk]]:
        output = await answer(engine, request(max_tokens=3, n_logprobs=2))
        whole = request([*PROMPT, *ids_of(output)], max_tokens=1, n_prompt_logprobs=2)
        return output, await answer(engine, whole)

    output, read = running(engine, scenario)
    scores = [score for chunk in output for score in chunk.logprobs or []]
    assert read[0].prompt_logprobs is not None and read[0].prompt_logprobs[0] is None
    assert read[0].prompt_logprobs[len(PROMPT) :] == scores


REFUSED = [
    (request(list(range(1, 103)), 1), {"max_input_len": 100}, RequestError, r"the prompt has 102 tokens; .* of 100"),
    (request(max_tokens=600), {}, RequestError, r"3 tokens \+ max_tokens 600 = 603; this model takes 512"),
    (request(logit_bias={300: 1.0}), {}, RequestError, r"logit_bias has the id 300; ids go from 0 to 299"),
    (
        request(n_prompt_logprobs=0), {"backend": "tensorrt"}, UnsupportedError,
        r"built with gather_context_logits(?s:.*)option\.gather_context_logits=true",
    ),
    (request(adapter="fr"), {}, NotFoundError, r"adapter 'fr' is not loaded(?s:.*)option\.enable_lora=true"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "options", "kind", "said"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(
    standin: Path, folder: Path, asked: GenerationRequest, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    engine = load(folder, **options)
    with pytest.raises(kind, match=said):
        running(engine, lambda: answer(engine, asked))


def test_penalties_that_would_count_the_prompt_are_refused(
    standin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder)
    monkeypatch.setattr(engine, "_skips_prompt", False)
    with pytest.raises(UnsupportedError, match=r"counts the prompt's ids in presence_penalty and frequency_penalty"):
        running(engine, lambda: answer(engine, request(presence_penalty=1.0)))


# ------------------------------------------------------------------------------------------------------------- failures


def test_when_the_executor_dies_every_stream_hears_of_it_though_the_library_tells_only_one(
    standin: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "die"
    mark.touch()
    monkeypatch.setenv("LMI_STANDIN_DEATH_FILE", str(mark))
    engine = load(folder)

    async def scenario() -> list[Any]:
        streams = [answer(engine, request(max_tokens=300)) for _ in range(3)]
        ends = await asyncio.gather(*streams, return_exceptions=True)
        with pytest.raises(EngineDeadError):
            await engine.check_health()
        return ends

    ends = running(engine, scenario)
    assert [type(each) for each in ends] == [EngineDeadError] * 3
    assert all("CUDA error: an illegal memory access" in str(each) for each in ends)


def test_an_executor_that_ends_without_a_word_is_noticed(standin: Path, folder: Path) -> None:
    engine = load(folder)

    async def scenario() -> None:
        stream = engine.generate(request(max_tokens=400))
        await stream.__anext__()
        await asyncio.to_thread(engine.llm._executor.shutdown)
        async for _ in stream:
            pass

    with pytest.raises(EngineDeadError, match=r"executor died: its executor was shut down"):
        running(engine, scenario)


def test_an_error_of_one_request_is_no_death(standin: Path, folder: Path) -> None:
    engine = load(folder)

    async def scenario() -> tuple[Any, list[int]]:
        bad = request(constraint=Constraint(kind="json_schema", source="{}"))  # the stand-in has none
        ends = await asyncio.gather(answer(engine, bad), answer(engine, request()), return_exceptions=True)
        await engine.check_health()
        return ends[0], ids_of(ends[1])  # type: ignore[arg-type]

    error, ids = running(engine, scenario)
    assert isinstance(error, LmiError) and error.code == "engine.failed" and len(ids) == 5
