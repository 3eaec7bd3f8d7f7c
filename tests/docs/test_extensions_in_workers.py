# SPDX-License-Identifier: Apache-2.0
"""The example extensions around the engine: what they count and keep, also when clients leave and workers die."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.extensions import response_cache
from lmi.api import Finish, FinishReason, GenerationRequest, SamplingParams, TokenChunk, Usage
from tests.docs.conftest import Serve, streamed
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "tokens.jsonl"


@pytest.fixture(scope="module")
def cached(serve_with: Serve, audit: Path) -> Iterator[ServerProcess]:
    """The cache is asked first: the audit sees what the engine still has to do."""
    with serve_with("response_cache,token_audit", audit=audit, step_delay_ms=1) as process:
        yield process


def audited(audit: Path, name: str) -> list[dict[str, Any]]:
    """The lines of one test's requests, without the part of their ids that counts requests."""
    lines = [json.loads(line) for line in audit.read_text().splitlines()] if audit.exists() else []
    return [{**line, "request_id": name} for line in lines if line["request_id"].startswith(f"{name}#")]


class Asker:
    """Sends requests under one name, and finds out which of them reached the engine."""

    def __init__(self, server: ServerProcess, audit: Path, name: str) -> None:
        self.server, self.audit, self.name = server, audit, name

    def ask(self, prompt: str, *, stream: bool = False, **parameters: Any) -> str:
        body = {"inputs": prompt, "parameters": parameters, "stream": stream}
        response = self.server.post(body, headers={"x-request-id": self.name})
        assert response.status_code == 200, response.text
        return response.text

    def n_output_tokens(self) -> list[int]:
        """Of each request that reached the engine; a last one, to which no other is equal, marks the end."""
        self.ask(f"the end of {self.name}", max_new_tokens=1)
        lines = eventually(self._ended)
        return [line["n_output_tokens"] for line in lines[:-1]]

    def _ended(self) -> list[dict[str, Any]] | None:
        lines = audited(self.audit, self.name)
        is_ended = bool(lines) and lines[-1]["n_prompt_tokens"] == len(f"the end of {self.name}")
        return lines if is_ended else None


@pytest.fixture
def asker(cached: ServerProcess, audit: Path, request: pytest.FixtureRequest) -> Asker:
    return Asker(cached, audit, request.node.name)


def test_token_audit_writes_one_line_a_request(cached: ServerProcess, audit: Path) -> None:
    Asker(cached, audit, "plain").ask("abc", max_new_tokens=7)
    Asker(cached, audit, "stream").ask("abcd", stream=True, max_new_tokens=9)
    [plain] = eventually(lambda: audited(audit, "plain"))
    assert plain == {"request_id": "plain", "n_prompt_tokens": 3, "n_output_tokens": 7, "finish": "length"}
    [stream] = eventually(lambda: audited(audit, "stream"))
    assert stream == {"request_id": "stream", "n_prompt_tokens": 4, "n_output_tokens": 9, "finish": "length"}


@contextlib.contextmanager
def opened(server: ServerProcess, name: str, prompt: str, n_tokens: int) -> Iterator[Iterator[str]]:
    """The lines of a stream while it comes; the connection is closed at the end of the block."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": n_tokens}, "stream": True}
    head = {"x-request-id": name}
    with server.client() as client, client.stream("POST", "/invocations", json=body, headers=head) as response:
        yield response.iter_lines()


def test_token_audit_counts_what_was_generated_for_a_client_that_left(cached: ServerProcess, audit: Path) -> None:
    with opened(cached, "left", "abc", 8000) as lines:
        next(lines)
    [line] = eventually(lambda: audited(audit, "left"))
    assert line["finish"] is None
    assert 1 <= line["n_output_tokens"] < 8000


def test_token_audit_and_response_cache_hold_when_a_request_resumes(cached: ServerProcess, audit: Path) -> None:
    [pid] = cached.worker_pids()
    with opened(cached, "resumed", "abcd", 1000) as lines:
        next(lines)
        psutil.Process(pid).kill()
        *_, last = lines
    assert json.loads(last)["generated_text"] == "abcd" * 250
    [line] = eventually(lambda: audited(audit, "resumed"))
    assert (line["n_output_tokens"], line["finish"]) == (1000, "length")
    assert cached.health()["models"][0]["n_worker_deaths"] == 1
    assert "".join(streamed(cached, "abcd", max_new_tokens=1000)) == "abcd" * 250


def test_token_audit_without_a_file_stops_the_start_and_says_what_to_do(serve_with: Serve) -> None:
    with serve_with("token_audit", is_ready=False) as server:
        assert server.wait_for_end() == 2
    assert "[token-audit.no-file] TOKEN_AUDIT_FILE is not set. Set TOKEN_AUDIT_FILE to the file" in server.output


def test_token_audit_in_a_folder_that_does_not_exist_stops_the_start(serve_with: Serve, tmp_path: Path) -> None:
    with serve_with("token_audit", audit=tmp_path / "no" / "a.jsonl", is_ready=False) as server:
        assert server.wait_for_end() == 2
    assert f"TOKEN_AUDIT_FILE={tmp_path}/no/a.jsonl: its folder does not exist" in server.output


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_response_cache_gives_the_same_answer_without_the_engine(asker: Asker, stream: bool) -> None:
    prompt = f"again {asker.name}"
    first = asker.ask(prompt, stream=stream, max_new_tokens=20, details=True)
    assert len(first.splitlines()) == (20 if stream else 1)
    assert [asker.ask(prompt, stream=stream, max_new_tokens=20, details=True) for _ in range(3)] == [first] * 3
    assert asker.n_output_tokens() == [20]


def test_response_cache_asks_the_engine_for_what_differs(asker: Asker) -> None:
    asker.ask("differs", max_new_tokens=6)
    asker.ask("differs ", max_new_tokens=6)
    asker.ask("differs", max_new_tokens=7)
    assert asker.ask("differs", max_new_tokens=6) == '{"generated_text":"differ"}'
    assert asker.n_output_tokens() == [6, 6, 7]


def test_response_cache_judges_stop_sequences_anew(asker: Asker) -> None:
    assert asker.ask("one,two,", max_new_tokens=8) == '{"generated_text":"one,two,"}'
    assert asker.ask("one,two,", max_new_tokens=8, stop_sequences=[","]) == '{"generated_text":"one"}'
    assert asker.n_output_tokens() == [8]


def test_response_cache_keeps_no_answer_that_a_client_ended(asker: Asker) -> None:
    asker.ask("up,to,", max_new_tokens=1500, stop_sequences=[","])
    assert asker.ask("up,to,", max_new_tokens=1500).startswith('{"generated_text":"up,to,up,to,up')
    cut, complete = asker.n_output_tokens()
    assert cut < complete == 1500


def test_an_extension_named_first_is_outermost(serve_with: Serve, tmp_path: Path) -> None:
    with serve_with("token_audit,response_cache", audit=tmp_path / "all.jsonl") as server:
        asker = Asker(server, tmp_path / "all.jsonl", "all")
        asker.ask("abc", max_new_tokens=5)
        asker.ask("abc", max_new_tokens=5)
        assert asker.n_output_tokens() == [5, 5]


# ---------------------------------------------------------------------------------------------- answer_cache


@pytest.fixture(scope="module")
def answering(serve_with: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """The cache is in the server; the audit in the worker sees what still gets there."""
    audit = tmp_path_factory.mktemp("audit") / "answers.jsonl"
    with serve_with("guardrail,answer_cache,token_audit", audit=audit) as process:
        yield process, audit


@pytest.fixture
def second_asker(answering: tuple[ServerProcess, Path], request: pytest.FixtureRequest) -> Asker:
    return Asker(*answering, request.node.name)


def test_answer_cache_gives_a_known_answer_whole_and_as_a_stream(second_asker: Asker) -> None:
    first = second_asker.ask("größer ", max_new_tokens=18)
    assert second_asker.ask("größer ", max_new_tokens=18) == first == '{"generated_text":"größer größer "}'
    texts = streamed(second_asker.server, "größer ", max_new_tokens=18)
    assert len(texts) == 18
    assert "".join(texts) == "größer größer "
    assert second_asker.n_output_tokens() == [18]


def test_answer_cache_goes_through_the_other_extensions(second_asker: Asker) -> None:
    known = [second_asker.ask("to bob@mail.co ", max_new_tokens=14) for _ in range(2)]
    assert known == ['{"generated_text":"to [address]"}'] * 2
    assert second_asker.n_output_tokens() == [14]


def test_answer_cache_leaves_alone_who_wants_more_than_text(second_asker: Asker) -> None:
    wanted = {"max_new_tokens": 3, "details": True, "top_n_tokens": 1}
    answers = [second_asker.ask("top", **wanted) for _ in range(2)]
    assert answers[0] == answers[1]
    assert second_asker.n_output_tokens() == [3, 3]


def test_answer_cache_asks_for_what_differs(second_asker: Asker) -> None:
    second_asker.ask("ab", max_new_tokens=4)
    assert second_asker.ask("ab", max_new_tokens=4, stop_sequences=["b"]) == '{"generated_text":"a"}'
    assert second_asker.ask("ab", max_new_tokens=5) == '{"generated_text":"ababa"}'
    assert len(second_asker.n_output_tokens()) == 3


# ------------------------------------------------------------------------------ the cache itself, without a server


async def tokens(request: GenerationRequest, n_calls: list[str]) -> AsyncGenerator[TokenChunk, None]:
    n_calls.append(request.request_id)
    for _ in range(request.sampling.max_tokens - 1):
        yield TokenChunk([7])
    usage = Usage(len(request.prompt_ids), request.sampling.max_tokens)
    yield TokenChunk([8], finish=Finish(FinishReason(request.adapter or "length")), usage=usage)


def ask_cache(cache: response_cache.ResponseCache, *prompts: int, adapter: str = "") -> list[str]:
    """Ask one after the other; the numbers of those that were generated."""
    generated: list[str] = []

    async def run() -> None:
        for number, prompt in enumerate(prompts):
            sampling = SamplingParams(max_tokens=4)
            request = GenerationRequest(request_id=str(number), prompt_ids=[prompt], sampling=sampling, adapter=adapter)
            chunks = [chunk async for chunk in cache.cached(request, tokens(request, generated))]
            assert [each for chunk in chunks for each in chunk.ids] == [7, 7, 7, 8]
            assert chunks[-1].usage == Usage(1, 4)

    asyncio.run(asyncio.wait_for(run(), limit_s(10)))
    return generated


def test_response_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = response_cache.ResponseCache(max_tokens=8)
    assert ask_cache(cache, 1, 2, 1, 3, 1, 2) == ["0", "1", "3", "5"]


def test_response_cache_keeps_nothing_larger_than_itself() -> None:
    assert ask_cache(response_cache.ResponseCache(max_tokens=3), 1, 1) == ["0", "1"]


def test_response_cache_keeps_no_answer_that_a_deadline_cut() -> None:
    assert ask_cache(response_cache.ResponseCache(max_tokens=100), 1, 1, adapter="deadline") == ["0", "1"]


def test_response_cache_leaves_a_resumed_request_to_the_engine() -> None:
    cache = response_cache.ResponseCache(max_tokens=100)
    ask_cache(cache, 1)
    sampling = SamplingParams(max_tokens=4)
    request = GenerationRequest(request_id="again", prompt_ids=[1], resumed_ids=[7, 7], sampling=sampling)

    async def engine() -> AsyncGenerator[TokenChunk, None]:
        yield TokenChunk([7])
        yield TokenChunk([8], finish=Finish(FinishReason.LENGTH), usage=Usage(1, 4))

    async def run() -> list[int]:
        return [each async for chunk in cache.cached(request, engine()) for each in chunk.ids]

    assert asyncio.run(asyncio.wait_for(run(), limit_s(10))) == [7, 8]
    assert ask_cache(cache, 1) == []  # what was kept is still the whole answer
