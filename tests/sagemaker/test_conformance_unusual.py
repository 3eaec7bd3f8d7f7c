# SPDX-License-Identifier: Apache-2.0
"""Containers that are right in an unusual way, or wrong in one that is easily missed."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmi.client import target_of
from lmi.conformance.all_rules import RULES
from lmi.conformance.rules import selected
from lmi.conformance.run import FAIL, PASS, Outcome, judge
from lmi.conformance.subject import Subject, Wishes
from tests.limits import SCALE
from tests.sagemaker.faulty_container import Talk, served
from tests.sagemaker.faulty_loading import Container

PROGRAM = [sys.executable, str(Path(__file__).with_name("faulty_process.py"))]


@contextlib.contextmanager
def container(talk: type[Talk]) -> Iterator[str]:
    """A container that keeps every rule, but for what this class does in another way; gives its URL."""
    named = type("Named", (talk,), {"container": Container("")})
    with served(ThreadingHTTPServer(("127.0.0.1", 0), named)) as url:
        yield url


def judged(talk: type[Talk], rule: str, scale: float = SCALE, **wishes: Any) -> Outcome:
    with container(talk) as url, Subject(Wishes(target=target_of(url), time_scale=scale, **wishes)) as subject:
        [outcome] = judge(subject, selected(RULES, [rule]), lambda _: None)
    return outcome


def test_an_inference_id_is_no_longer_than_the_platform_lets_through() -> None:
    class Strict(Talk):
        def _refuse_by_headers(self) -> None:
            if len(self.headers.get("X-Amzn-SageMaker-Inference-Id", "")) > 64:
                raise AssertionError("no client can send this")

    assert judged(Strict, "invocations.takes-inference-id").outcome == PASS


@pytest.mark.parametrize(
    ("body", "content_type", "outcome"),
    [
        ('"Paris"', "application/json", PASS),
        ("42", "application/json; charset=utf-8", PASS),
        ('{"a": 1}', "application/vnd.model+json", PASS),
        ('{"a": 1}', "application/jsonlines", PASS),
        ("Paris", "text/plain", PASS),
        ("Paris", "application/json", FAIL),
        ("Paris", "application/vnd.model+json", FAIL),
        ('{"a": 1}', "text/plain", FAIL),
    ],
)
def test_an_answer_is_judged_by_the_type_that_it_says(body: str, content_type: str, outcome: str) -> None:
    class Typed(Talk):
        def _invocations_(self, *_: Any) -> None:
            self._answer(200, body.encode(), {"Content-Type": content_type})

    found = judged(Typed, "invocations.says-its-content-type")
    assert found.outcome == outcome, found.reason


def test_a_ping_that_comes_bit_by_bit_is_late_all_the_same() -> None:
    class Dripping(Talk):
        def _ping_(self, *_: Any) -> None:
            for line in (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", b"Content-Length: 0\r\n", b"\r\n"):
                time.sleep(0.15)
                self.wfile.write(line)

    found = judged(Dripping, "ping.answers-within-2s", scale=0.2)  # 0.4 s, of which no wait takes more than half
    assert found.outcome == FAIL
    assert "0.4 s" in found.reason


def test_a_closed_session_is_told_by_its_id_alone() -> None:
    class WithExpiry(Talk):
        def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            told = {
                name: f"{value}; Expires=2030-01-01T00:00:00Z" if "closed" in name else value
                for name, value in (headers or {}).items()
            }
            super()._answer(status, content, told)

    found = judged(WithExpiry, "sessions.can-be-closed")
    assert found.outcome == FAIL
    assert "Expires=2030" in found.reason


@pytest.mark.parametrize("end", ["2020-01-01T00:00:00Z", "2030-02-31T00:00:00Z"])
def test_a_new_session_ends_at_a_time_to_come(end: str) -> None:
    class Over(Talk):
        def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            told = {name: f"s-1; Expires={end}" if "new" in name else value for name, value in (headers or {}).items()}
            super()._answer(status, content, told)

    found = judged(Over, "sessions.tells-id-and-end")
    assert found.outcome == FAIL
    assert end in found.reason


def test_a_list_without_the_adapter_is_none_with_a_word_like_it(tmp_path: Path) -> None:
    class Forgetful(Talk):
        def _adapters_(self, method: str, *rest: Any) -> None:
            if method == "GET":
                self._answer(200, {"adapters": []})
            else:
                super()._adapters_(method, *rest)

    assert judged(Forgetful, "adapters.lists", adapter=("adapter", str(tmp_path))).outcome == FAIL


def test_a_long_text_is_waited_for_before_the_next_rule_begins() -> None:
    class Held(Talk):
        is_busy = threading.Event()

        def _ping_(self, *rest: Any) -> None:
            if self.is_busy.is_set():
                self._answer(503, {})
            else:
                super()._ping_(*rest)

        def _invocations_(self, *rest: Any) -> None:
            if len(self.content) < 1 << 20:
                super()._invocations_(*rest)
                return
            self.is_busy.set()
            time.sleep(1)
            self.is_busy.clear()
            self._answer(400, {"message": "too long"})

    rules = selected(RULES, ["invocations.survives-long-texts", "ping.is-small"])
    with container(Held) as url, Subject(Wishes(target=target_of(url), time_scale=SCALE)) as subject:
        outcomes = {each.rule.id: each for each in judge(subject, rules[::-1], lambda _: None)}
    assert outcomes["invocations.survives-long-texts"].outcome == FAIL
    assert outcomes["ping.is-small"].evidence[0]["status"] == 200


@pytest.mark.long
def test_a_process_that_nobody_saw_begin_is_left_behind(tmp_path: Path) -> None:
    """Its parent has ended before anybody looked: no process of the command is above it any more."""
    pid_file = tmp_path / "pid"
    script = f"(sleep 300 & echo $! > {shlex.quote(str(pid_file))}); exec {shlex.join(PROGRAM)} serve"
    wishes = Wishes(command=["sh", "-c", script], start_s=20 * SCALE, time_scale=SCALE)
    with Subject(wishes) as subject:
        [outcome] = judge(subject, selected(RULES, ["process.leaves-nothing-behind"]), lambda _: None)
    assert outcome.outcome == FAIL, outcome.reason
    assert f"process {pid_file.read_text().strip()} (sleep 300)" in outcome.reason
    pid = int(pid_file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_stream_that_greets_and_keeps_its_text_to_the_end_comes_at_once() -> None:
    class Greeting(Talk):
        def _stream(self, word: str, n_tokens: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/jsonlines")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            lines = [self._line(word, is_last=position == n_tokens - 1) for position in range(n_tokens)]
            for chunk in (b'{"role": "assistant"}\n', b"".join(lines)):
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                time.sleep(n_tokens * 0.01)
            self.wfile.write(b"0\r\n\r\n")

    found = judged(Greeting, "streaming.comes-piece-by-piece")
    assert found.outcome == FAIL
    assert "of its bytes" in found.reason


def test_a_body_behind_the_answer_to_head_is_seen() -> None:
    class Talkative(Talk):
        def _ping_(self, method: str, *rest: Any) -> None:
            super()._ping_(method, *rest)
            if method == "HEAD":
                self.wfile.write(b"{}")

    assert judged(Talkative, "ping.takes-head").outcome == FAIL


def test_a_stream_that_begins_late_and_goes_on_piece_by_piece_is_one() -> None:
    class Late(Talk):
        def _stream(self, word: str, n_tokens: int) -> None:
            time.sleep(0.9)
            super()._stream(word, n_tokens)

    found = judged(Late, "streaming.comes-piece-by-piece")
    assert found.outcome == PASS, found.reason
