# SPDX-License-Identifier: Apache-2.0
"""Every hook an extension can have, with extensions installed as distributions of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess, serve
from tests.wire.conftest import ServeWith


@pytest.fixture(scope="module")
def extended(serve_with: ServeWith) -> Iterator[ServerProcess]:
    with serve_with("guard,probe,redactor,schema,worker_filters", step_delay_ms=2) as server:
        yield server


def streamed(server: ServerProcess, prompt: str, n_tokens: int) -> str:
    lines = list(server.stream(prompt, max_new_tokens=n_tokens))
    text = "".join(line["token"]["text"] for line in lines)
    assert text == lines[-1]["generated_text"]
    assert len(lines) == n_tokens
    return text


def whole(server: ServerProcess, prompt: str, n_tokens: int) -> str:
    return str(server.generate(prompt, max_new_tokens=n_tokens)["generated_text"])


# ------------------------------------------------------------------------------------------ lmi_generate_batch


def test_lmi_generate_batch_can_be_wrapped_to_count_in_the_worker(extended: ServerProcess) -> None:
    assert whole(extended, "abc", 17) == "abcabcabcabcabcab"
    pid = extended.wait_for_line(r"counted 17 tokens in process (\d+)")[1]
    assert [int(pid)] == extended.worker_pids()


def test_lmi_generate_batch_can_be_wrapped_to_change_tokens(extended: ServerProcess) -> None:
    assert whole(extended, "axbx", 8) == streamed(extended, "axbx", 8) == "a*b*a*b*"
    tokens = extended.generate("ax", max_new_tokens=2, details=True)["details"]["tokens"]
    assert [(token["id"], token["text"]) for token in tokens] == [(97, "a"), (42, "*")]


def test_lmi_generate_batch_wrappers_hold_when_a_request_resumes(extended: ServerProcess) -> None:
    [pid] = extended.worker_pids()
    stream = extended.stream("axbx", max_new_tokens=400)
    lines = [next(stream)]
    psutil.Process(pid).kill()
    lines += stream
    assert (len(lines), lines[-1]["generated_text"]) == (400, "a*b*" * 100)


def test_lmi_generate_batch_wrappers_do_not_keep_a_slot_from_being_freed(serve_with: ServeWith) -> None:
    with serve_with("worker_filters", step_delay_ms=10, max_rolling_batch_size=1) as server:
        stream = server.stream("axbx", max_new_tokens=8000)
        next(stream)
        stream.close()
        assert whole(server, "next", 4) == "ne*t"


# ------------------------------------------------------------------------------------------ lmi_filter_request


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_lmi_filter_request_can_refuse(extended: ServerProcess, stream: bool) -> None:
    response = extended.post({"inputs": "how to build a bomb", "stream": stream})
    assert (response.status_code, response.json()["error"]) == (400, "guard.refused")
    assert "the prompt speaks of a bomb. Ask for something else" in response.json()["message"]


def test_lmi_filter_request_can_change_the_prompt(extended: ServerProcess) -> None:
    answer = extended.generate("please abc", max_new_tokens=6, details=True)
    assert (answer["generated_text"], answer["details"]["inputs"]) == ("abcabc", "abc")
    assert streamed(extended, "please abc", 6) == "abcabc"


def test_lmi_filter_request_can_change_what_ends_the_text(extended: ServerProcess) -> None:
    response = extended.post({"inputs": "one two ", "parameters": {"max_new_tokens": 50}}, headers={"X-Few": "yes"})
    assert response.json() == {"generated_text": "one"}


def test_lmi_filter_request_that_breaks_fails_its_request_alone(extended: ServerProcess) -> None:
    response = extended.post({"inputs": "break"})
    assert (response.status_code, response.json()["error"]) == (500, "server.error")
    assert "the guard is broken" in response.json()["message"]
    assert whole(extended, "abc", 3) == "abc"


# --------------------------------------------------------------------------------------------- lmi_filter_text


@pytest.mark.parametrize("answer", [streamed, whole])
@pytest.mark.parametrize(
    ("prompt", "n_tokens", "text"),
    [
        ("a secret! ", 10, "a [cut]! "),
        ("a secret! ", 8, "a [cut]"),
        ("a secret! ", 7, "a secre"),
        ("secretsecret", 12, "[cut][cut]"),
        ("secsecret", 9, "sec[cut]"),
        ("nothing", 7, "nothing"),
    ],
)
def test_lmi_filter_text_redacts_what_spans_pieces(
    extended: ServerProcess, answer: object, prompt: str, n_tokens: int, text: str
) -> None:
    assert callable(answer)
    assert answer(extended, prompt, n_tokens) == text


def test_lmi_filter_text_is_kept_to_in_the_tokens_of_details(extended: ServerProcess) -> None:
    details = extended.generate("a secret! ", max_new_tokens=10, details=True)["details"]
    assert "".join(token["text"] for token in details["tokens"]) == "a [cut]! "


def test_lmi_filter_text_gives_what_it_held_back_when_a_stop_sequence_ends_the_text(extended: ServerProcess) -> None:
    answer = extended.generate("secr|", max_new_tokens=50, stop_sequences=["|"])
    assert answer == {"generated_text": "secr"}
    lines = list(extended.stream("secr|", max_new_tokens=50, stop_sequences=["|"]))
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == "secr"


@pytest.fixture(scope="module")
def poisoned(serve_with: ServeWith) -> Iterator[ServerProcess]:
    with serve_with("poison", step_delay_ms=2, max_rolling_batch_size=1) as server:
        yield server


def test_lmi_filter_text_can_refuse_a_plain_answer(poisoned: ServerProcess) -> None:
    response = poisoned.post({"inputs": "take poison ", "parameters": {"max_new_tokens": 50}})
    assert (response.status_code, response.json()["error"]) == (400, "poison.found")


def test_lmi_filter_text_can_end_a_stream_and_its_slot_is_free(poisoned: ServerProcess) -> None:
    lines = list(poisoned.stream("take poison ", max_new_tokens=8000))
    assert (lines[-1]["code"], lines[-1]["error"]) == (400, "poison.found")
    assert "".join(line["token"]["text"] for line in lines[:-1]) == "take "
    assert poisoned.workers()[0]["n_requests"] == 0
    assert whole(poisoned, "next", 4) == "next"


def test_lmi_filter_text_can_end_a_stream_of_events_by_one(poisoned: ServerProcess) -> None:
    body = {"prompt": "take poison ", "max_tokens": 100, "temperature": 0, "stream": True}
    response = poisoned.post(body, headers={"accept": "text/event-stream"})
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: {") for event in events)
    assert "poison.found" in events[-1]


# ------------------------------------------------------------------------ lmi_parse_request, lmi_format_response


def test_lmi_parse_request_translates_another_schema(extended: ServerProcess) -> None:
    assert extended.post({"q": "abc", "n": 5}).json() == {"generated_text": "abcab"}
    assert extended.post({"q": "c"}, headers={"X-Prefix": "ab"}).json() == {"generated_text": "abca"}


def test_lmi_parse_request_leaves_what_it_does_not_know_to_lmi(extended: ServerProcess) -> None:
    assert whole(extended, "abc", 5) == "abcab"


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (b'{"q": "abc", "n": 0}', "request.invalid", "max_new_tokens=0"),
        (b'{"inputs": "abc", "parameters": {"temprature": 1}}', "request.invalid", "temperature"),
        (b'{"q": ', "request.malformed-json", "not JSON"),
        (b'{"q": "\xff"}', "request.malformed-json", "not JSON"),
        (b'{"inputs": "abc", "parameters": {"temperature": NaN}}', "request.invalid", "temperature=nan"),
        (b"[" * 100_000, "request.malformed-json", "not JSON"),
        (b"[1]", "request.invalid", "object"),
    ],
    ids=["bounds", "name", "cut", "utf-8", "nan", "deep", "list"],
)
def test_lmi_parse_request_changes_nothing_about_bad_input(
    extended: ServerProcess, body: bytes, code: str, word: str
) -> None:
    response = extended.post(body)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert word in response.json()["message"]


def test_lmi_parse_request_that_breaks_on_a_body_fails_its_request_alone(extended: ServerProcess) -> None:
    assert extended.post({"q": 7}).status_code == 500
    assert whole(extended, "abc", 3) == "abc"


def test_lmi_format_response_builds_the_answer(extended: ServerProcess) -> None:
    response = extended.post({"q": "abc", "n": 5}, headers={"x-schema": "qa"})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"a": "abcab", "ids": [97, 98, 99, 97, 98], "why": "length", "counts": [3, 5]}


# ---------------------------------------------------------------------- lmi_register_routes, lmi_register_commands


def test_lmi_register_routes_adds_a_route_that_sees_the_models(extended: ServerProcess) -> None:
    with extended.client() as client:
        probe = client.get("/probe").json()
    assert (probe["pid"], probe["models"]) == (extended.process.pid, ["model"])


def test_lmi_register_commands_adds_a_command(extensions: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(extensions), "LMI_EXTENSIONS": "probe"}
    command = [sys.executable, "-m", "lmi", "probe"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit_s(30), check=True)
    assert done.stdout == "hello from the probe\n"


HEAVY = re.compile(r"(torch|transformers|accelerate|peft|numpy|lmi_hf\.(engine|stepping)|lmi\.scheduling)(\.|$)")


def heavy_modules(server: ServerProcess) -> list[str]:
    """Looked at after plain and streamed requests, with all backends of this workspace installed."""
    server.generate("Hello", max_new_tokens=3)
    list(server.stream("Hello", max_new_tokens=3, details=True))
    with server.client() as client:
        modules = client.get("/probe").json()["modules"]
    assert "lmi.serving.lmi" in modules
    return [name for name in modules if HEAVY.match(name)]


def test_the_server_process_imports_no_engine_library(extended: ServerProcess) -> None:
    assert heavy_modules(extended) == []


def test_the_server_process_of_a_real_model_imports_no_engine_library(extensions: Path, demo_model: Path) -> None:
    environ = {"PYTHONPATH": str(extensions), "LMI_EXTENSIONS": "probe"}
    with serve(str(demo_model), environ=environ) as server:
        assert heavy_modules(server) == []
