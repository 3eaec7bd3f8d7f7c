# SPDX-License-Identifier: Apache-2.0
"""lmi generate as a user runs it: real processes, real files, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.limits import limit_s
from tests.servers import eventually, wait_for_ends, with_descendants

LMI = str(Path(sys.executable).with_name("lmi"))


class Run:
    """One run of the command on the files of a folder, with the echo backend."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        is_disk_small: bool = False,
        environ: dict[str, str] | None = None,
        **options: object,
    ) -> None:
        pairs = [
            part for key, value in {"rolling_batch": "echo", **options}.items() for part in ("-o", f"{key}={value}")
        ]
        self.output = folder / "output.jsonl"
        command = [LMI, "generate", str(folder / "prompts.jsonl"), "--output", str(self.output), *pairs, *args]
        if is_disk_small:  # two blocks a file, of 512 or 1024 bytes, as shells count them
            command = ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environ or {})}
        )

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=limit_s(60))
        return self.process.returncode, out, err

    @property
    def lines(self) -> list[bytes]:
        return self.output.read_bytes().splitlines(keepends=True) if self.output.exists() else []


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "output.jsonl").read_text().splitlines()]


def write_prompts(folder: Path, *lines: Any) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "prompts.jsonl").write_text(text)


def many(n_lines: int, n_tokens: int) -> list[dict[str, Any]]:
    return [
        {"inputs": f"line {number}. ", "id": number, "parameters": {"max_new_tokens": n_tokens}}
        for number in range(1, n_lines + 1)
    ]


def answer_to(number: int, n_tokens: int) -> dict[str, str]:
    """What echo says: the prompt, over and over."""
    return {"generated_text": (f"line {number}. " * n_tokens)[:n_tokens]}


def test_every_line_is_answered_or_has_its_error(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    write_prompts(
        tmp_path,
        {"inputs": "one two ", "id": "a", "parameters": {"max_new_tokens": 7}},
        "this is no JSON",
        {"messages": [{"role": "user", "content": "hello "}], "max_tokens": 5, "id": 3},
        "",
        {"prompt": "three ", "max_tokens": 4, "stream": True},
        {"inputs": "one", "parameters": {"max_new_tokens": -1}, "id": "bad"},
    )
    code, out, err = Run(tmp_path, chat_template=template).end()
    assert code == 1, err
    found = {record["line"]: record for record in records(tmp_path)}
    assert sorted(found) == [1, 2, 3, 5, 6]
    assert found[1]["id"] == "a"
    assert found[1]["answer"] == {"generated_text": "one two"}
    assert found[2]["error"]["code"] == "generate.bad-line"
    assert found[3]["answer"]["choices"][0]["message"]["content"] == "hello"
    assert found[5]["answer"]["choices"][0]["text"] == "thre"
    assert found[6]["error"]["code"] == "request.invalid"
    assert found[6]["id"] == "bad"
    assert "max_new_tokens" in found[6]["error"]["message"]
    assert "5 of 5 lines" in out
    assert "2 of them failed" in out


def test_an_answer_that_a_model_calls_unavailable_is_the_answer(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from djl_python import Output\n"
        "def handle(inputs):\n"
        "    return None if inputs.is_empty() else Output(503, 'closed').add('nothing today')\n"
    )
    write_prompts(tmp_path, {"inputs": "a"})
    code, _, _ = Run(tmp_path, str(tmp_path), rolling_batch="disable").end()
    [record] = records(tmp_path)
    assert (code, record["error"]["status"]) == (1, 503)


def test_no_port_is_opened_and_nothing_is_left(tmp_path: Path) -> None:
    write_prompts(tmp_path, *many(1, 100_000))
    run = Run(tmp_path, step_delay_ms=5, max_model_len=200_000)
    process = psutil.Process(run.process.pid)
    eventually(process.children, 60)
    kinds = {connection.status for each in with_descendants(process) for connection in each.net_connections("inet")}
    assert psutil.CONN_LISTEN not in kinds
    family = with_descendants(process)
    run.process.send_signal(signal.SIGKILL)
    run.end()
    wait_for_ends(family)


def test_a_run_that_was_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    n_lines, n_tokens = 24, 40
    write_prompts(tmp_path, *many(n_lines, n_tokens))
    run = Run(tmp_path, step_delay_ms=5, max_rolling_batch_size=2)
    eventually(lambda: len(run.lines) >= 4, 60)
    run.process.send_signal(signal.SIGKILL)
    run.end()
    kept = [line for line in run.lines if line.endswith(b"\n")]
    assert 4 <= len(kept) < n_lines
    with run.output.open("ab") as file:
        file.write(kept[0][:30])  # as a kill in the middle of a write leaves it

    code, out, err = Run(tmp_path).end()
    assert (code, f"{n_lines} of {n_lines} lines" in out) == (0, True), err
    assert f"{n_lines - len(kept)} of {n_lines} lines are to be answered" in err
    found = records(tmp_path)
    assert run.output.read_bytes().startswith(b"".join(kept))
    assert Counter(record["line"] for record in found) == Counter(range(1, n_lines + 1))
    assert all(record["id"] == record["line"] for record in found)
    assert all(record["answer"] == answer_to(record["line"], n_tokens) for record in found)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_told_to_stop_it_finishes_the_lines_it_has_begun_and_no_other(tmp_path: Path, number: signal.Signals) -> None:
    n_lines, n_tokens = 40, 40
    write_prompts(tmp_path, *many(n_lines, n_tokens))
    run = Run(tmp_path, "--at-once", "2", step_delay_ms=5)
    eventually(lambda: len(run.lines) >= 3, 60)
    run.process.send_signal(number)
    code, out, err = run.end()
    assert code == 1, err
    n_done = len(run.lines)
    assert 3 <= n_done < n_lines
    assert f"{n_done} of {n_lines} lines" in out
    assert "goes on with the rest" in out
    assert all(record["answer"] == answer_to(record["line"], n_tokens) for record in records(tmp_path))
    assert Run(tmp_path).end()[0] == 0
    assert sorted(record["line"] for record in records(tmp_path)) == list(range(1, n_lines + 1))


@pytest.mark.long
def test_what_cannot_finish_before_the_drain_ends_is_left_for_the_next_run(tmp_path: Path) -> None:
    write_prompts(tmp_path, {"inputs": "a"}, {"inputs": "b", "parameters": {"max_new_tokens": 100_000}})
    run = Run(tmp_path, "--drain-timeout", "0.1", step_delay_ms=5, max_model_len=200_000)
    eventually(lambda: len(run.lines) == 1, 60)
    run.process.send_signal(signal.SIGINT)
    code, out, err = run.end()
    assert (code, "1 of 2 lines" in out) == (1, True), err
    assert [record["line"] for record in records(tmp_path)] == [1]


def test_a_worker_that_dies_costs_no_line(tmp_path: Path) -> None:
    n_lines, n_tokens = 24, 40
    write_prompts(tmp_path, *many(n_lines, n_tokens))
    run = Run(tmp_path, step_delay_ms=5, max_rolling_batch_size=2)
    eventually(lambda: len(run.lines) >= 2, 60)
    [worker] = psutil.Process(run.process.pid).children()
    worker.kill()
    code, _, err = run.end()
    assert code == 0, err
    assert sorted(record["line"] for record in records(tmp_path)) == list(range(1, n_lines + 1))
    assert all(record["answer"] == answer_to(record["line"], n_tokens) for record in records(tmp_path))


@pytest.mark.long
def test_a_model_that_fails_for_good_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    n_lines = 24
    write_prompts(tmp_path, *many(n_lines, 40))
    run = Run(tmp_path, step_delay_ms=5, max_rolling_batch_size=2, retry_threshold=0)
    eventually(lambda: len(run.lines) >= 2, 60)
    [worker] = psutil.Process(run.process.pid).children()
    worker.kill()
    code, out, err = run.end()
    assert code == 1
    assert "the model failed for good" in err
    assert f"{len(run.lines)} of {n_lines} lines" in out
    assert 2 <= len(run.lines) < n_lines
    assert all("answer" in record for record in records(tmp_path))


def test_a_finished_file_loads_no_model_and_mended_lines_are_asked_again(tmp_path: Path) -> None:
    bad, good = {"inputs": "x", "parameters": {"nope": 1}}, {"inputs": "ab", "parameters": {"max_new_tokens": 2}}
    write_prompts(tmp_path, good, bad)
    assert Run(tmp_path).end()[0] == 1
    code, out, err = Run(tmp_path).end()
    assert (code, "1 of them failed" in out, "model" in err) == (1, True, False)
    write_prompts(tmp_path, good, good)
    assert Run(tmp_path).end()[0] == 0
    assert [record["answer"] for record in records(tmp_path)] == [{"generated_text": "ab"}] * 2


@pytest.mark.long
def test_lines_that_wait_for_a_place_are_asked_again_and_none_is_refused(tmp_path: Path) -> None:
    write_prompts(tmp_path, *many(12, 10))
    code, _, err = Run(tmp_path, "--at-once", "6", job_queue_size=1, max_rolling_batch_size=1).end()
    assert code == 0, err
    assert len(records(tmp_path)) == 12


@pytest.mark.long
def test_a_disk_that_is_full_ends_the_run_and_keeps_what_was_whole(tmp_path: Path) -> None:
    write_prompts(tmp_path, *many(24, 40))
    (tmp_path / "temporary").mkdir()
    # Python would cut what it compiles, and stumble over that the next time.
    environ = {"TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = Run(tmp_path, is_disk_small=True, environ=environ)
    code, _, err = run.end()
    assert code == 1, err
    assert "generate.cannot-write" in err
    assert "Traceback" not in err
    assert 0 < len(run.output.read_bytes()) <= 2048
    assert all(record["answer"] == answer_to(record["line"], 40) for record in records(tmp_path))
    assert list((tmp_path / "temporary").glob("lmi-generate-*")) == []


def test_a_folder_for_temporary_files_that_is_too_deep_for_sockets_is_not_used_for_them(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    write_prompts(tmp_path, {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    code, _, err = Run(tmp_path, environ={"TMPDIR": str(deep)}).end()
    assert code == 0, err
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        ((), {"nope": 1}, "config.unknown-key"),
        ((), {"rolling_batch": "nobody"}, "rolling_batch=nobody"),
        (("-m", "a=FOLDER,b=FOLDER"), {}, "generate.not-one-model: 2 models are to be loaded (a, b)"),
    ],
)
def test_a_model_that_cannot_be_served_ends_with_2_and_leaves_no_answers(
    tmp_path: Path, args: tuple[str, ...], options: dict[str, object], said: str
) -> None:
    write_prompts(tmp_path, {"inputs": "a"})
    args = tuple(each.replace("FOLDER", str(tmp_path)) for each in args)
    code, _, err = Run(tmp_path, *args, **options).end()
    assert (code, said in err) == (2, True), err
    assert records(tmp_path) == []


def test_prompts_that_are_not_there_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    code, _, err = Run(tmp_path).end()
    assert code == 2
    assert "generate.cannot-read" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
