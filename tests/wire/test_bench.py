# SPDX-License-Identifier: Apache-2.0
"""lmi bench as a user runs it, against real servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo

LMI = str(Path(sys.executable).with_name("lmi"))
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo(step_delay_ms=5, max_rolling_batch_size=2, chat_template=TEMPLATE, max_model_len=2000) as process:
        yield process


def bench(url: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [LMI, "bench", url, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s(100), check=False)


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def n_answered(server: ServerProcess) -> int:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("lmi_requests_total{"))


@pytest.mark.parametrize(
    "args",
    [
        ("--schema", "lmi"),
        ("--schema", "chat"),
        pytest.param(("--schema", "completions"), marks=pytest.mark.long),
        ("--schema", "completions", "--path", "/invocations"),
        pytest.param(("--schema", "lmi", "--path", "/predictions/model"), marks=pytest.mark.long),
    ],
    ids=" ".join,
)
def test_every_schema_is_measured(server: ServerProcess, tmp_path: Path, args: tuple[str, ...]) -> None:
    before = n_answered(server)
    told = ("--at-once", "1", "3", "--n-requests", "6", "--input-tokens", "40", "--output-tokens", "12")
    done = bench(server.url, *args, *told, "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    assert n_answered(server) - before == 1 + (1 + 6) + (3 + 6)  # the first one, and a round before each level
    report = report_of(tmp_path)
    assert [level["n_at_once"] for level in report["levels"]] == [1, 3]
    for level in report["levels"]:
        assert (level["n_requests"], level["n_errors"], level["n_tokens"]) == (6, 0, 6 * 12)
        assert level["is_by_pieces"] is False
        # Echo has a token a byte, a word has several: prompts are as long as wanted because the first one told.
        assert 25 <= level["prompt_tokens"] <= 55
        assert 0 < level["first_token_s"]["p50"] <= level["first_token_s"]["p99"] < level["duration_s"]
        assert level["tokens_per_s"] == pytest.approx(72 / level["duration_s"])
        assert level["requests_per_s"] == pytest.approx(6 / level["duration_s"])
    rows = [line.split()[:3] for line in done.stdout.splitlines() if line.split()[1:2] == ["6"]]
    assert rows == [["1", "6", "0"], ["3", "6", "0"]]
    assert (tmp_path / "report.html").read_text().count("<svg") == 3


def test_a_full_batch_is_seen_and_the_option_named(server: ServerProcess, tmp_path: Path) -> None:
    told = ("--at-once", "16", "--n-requests", "32", "--output-tokens", "40", "--report", str(tmp_path))
    done = bench(server.url, *told)
    assert done.returncode == 0, done.stderr
    seen = report_of(tmp_path)["levels"][0]["server"]
    assert seen["n_running_peak"] == 2
    assert 0 < seen["n_waiting_peak"] <= 14
    assert report_of(tmp_path)["advice"]["option"] == "option.max_rolling_batch_size"
    assert "next: option.max_rolling_batch_size: at 16 at once" in done.stdout


@pytest.mark.long
def test_refused_requests_are_counted_by_code_and_lead_to_the_queue(tmp_path: Path) -> None:
    with serve_echo(step_delay_ms=10, max_rolling_batch_size=1, job_queue_size=1) as server:
        done = bench(
            server.url, "--at-once", "1", "8", "--n-requests", "16", "--output-tokens", "20", "--no-warm-up",
            "--report", str(tmp_path),
        )  # fmt: skip
    assert done.returncode == 1
    calm, busy = report_of(tmp_path)["levels"]
    assert calm["n_errors"] == 0
    assert list(busy["errors"]) == ["queue.full"]
    assert busy["n_errors"] == busy["errors"]["queue.full"] == 16 - busy["n_tokens"] // 20
    assert "x queue.full: " in done.stdout
    assert "next: job_queue_size: " in done.stdout


@pytest.mark.long
def test_a_server_that_goes_away_is_told_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    with serve_echo(step_delay_ms=20, max_rolling_batch_size=4) as server:
        told = ("--at-once", "1", "2", "--n-requests", "5", "--output-tokens", "30", "--report", str(tmp_path))
        process = subprocess.Popen([LMI, "bench", server.url, *told], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(3)]  # two lines of the head, then the first level
        server.kill()
        rest, _ = process.communicate(timeout=limit_s(60))
    assert first[2].split()[:3] == ["1", "5", "0"]
    assert process.returncode == 1
    calm, cut = report_of(tmp_path)["levels"]
    assert (calm["n_errors"], set(cut["errors"])) == (0, {"client.connection"})
    assert "next: " in rest


class Foreign(BaseHTTPRequestHandler):
    """Another server: OpenAI's events with two tokens a piece, no usage, no metrics, a connection a request."""

    bodies: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[set[str | None]] = set()

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.keys.add(self.headers["authorization"])
        self.send_response(200)
        self.end_headers()
        for text in ("a b ", "c d ", "e f"):
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_server_that_does_not_count_is_measured_by_pieces() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{foreign.server_port}"
        told = ("--schema", "chat", "--model", "m", "--at-once", "2", "--n-requests", "4", "--may-end", "--no-warm-up")
        done = bench(url, *told, "-H", "Authorization: Bearer key", "--input-tokens", "5")
        foreign.shutdown()
    assert done.returncode == 0, done.stderr
    assert "counted by pieces" in done.stdout
    assert len(Foreign.bodies) == 1 + 4
    for body in Foreign.bodies:
        assert (body["model"], body["max_tokens"], "ignore_eos" in body) == ("m", 128, False)
        assert len(body["messages"][0]["content"].split()) == 5
    assert Foreign.keys == {"Bearer key"}


def test_a_request_that_takes_too_long_is_an_error_of_the_client(server: ServerProcess) -> None:
    done = bench(server.url, "--at-once", "1", "--output-tokens", "400", "--timeout-s", "0.2")
    assert done.returncode == 1
    assert "client.timeout: no end after 0.2 s" in done.stderr


def test_prompts_of_a_file_are_sent_as_they_are(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "abcdefg"}]}\n')
    told = ("--schema", "chat", "--prompts", str(file), "--at-once", "1", "--n-requests", "2", "--output-tokens", "3")
    done = bench(server.url, *told, "--report", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    [level] = report_of(tmp_path / "report")["levels"]
    assert (level["prompt_tokens"], level["n_tokens"]) == (len("abcdefg "), 6)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--path", "/nowhere"), 1, "bench.no-answer: the first request failed with request.no-route"),
        (("--input-tokens", "5000"), 1, "request.too-long"),
        (("--at-once", "1", "x"), 2, "x"),
        (("--at-once", "0"), 2, "'0' is no number of clients"),
        (("--header", "no value"), 2, "NAME: VALUE"),
        (("--prompts", "/nowhere.jsonl"), 2, "bench.bad-prompts"),
    ],
)
def test_a_call_that_cannot_be_measured_says_why(
    server: ServerProcess, args: tuple[str, ...], code: int, said: str
) -> None:
    done = bench(server.url, *args)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_where_nobody_listens_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listened on
        done = bench(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "bench.no-answer: the first request failed with client.connection" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(
    server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = bench(server.url, "--report", str(tmp_path / "file" / "below"))
    assert (done.returncode, "bench.cannot-write" in done.stderr, done.stdout) == (1, True, "")
