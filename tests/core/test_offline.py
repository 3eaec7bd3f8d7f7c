# SPDX-License-Identifier: Apache-2.0
"""The files of lmi generate: which lines are missing, and what is kept."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ConfigError, LmiError, RequestError
from lmi.offline import Prompt, Records, prompts_of

LINES = ['{"inputs": "one", "id": 1}', '{"inputs": "two"}', '{"inputs": "three"}', '{"inputs": "four"}']


class Files:
    """A file of prompts and its file of answers."""

    def __init__(self, folder: Path) -> None:
        self.prompts = folder / "prompts.jsonl"
        self.output = folder / "output.jsonl"
        self.write(LINES)

    def write(self, lines: list[str]) -> None:
        self.prompts.write_text("\n".join(lines))

    def missing(self, *, asks_failed: bool = False) -> list[int]:
        records = Records(self.output)
        try:
            return records.missing(prompts_of(self.prompts), asks_failed=asks_failed)
        finally:
            records.close()

    def answer(self, *numbers: int, fails: tuple[int, ...] = ()) -> None:
        records = Records(self.output)
        records.missing(prompts_of(self.prompts), asks_failed=False)
        for prompt in prompts_of(self.prompts):
            if prompt.number in fails:
                records.add(prompt, None, error={"code": "request.invalid"})
            elif prompt.number in numbers:
                records.add(prompt, "name", answer={"generated_text": "grüße \ud800"})
        records.close()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_bytes().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_record_names_its_line_and_is_in_the_file_at_once(files: Files) -> None:
    records = Records(files.output)
    [first, *_] = prompts_of(files.prompts)
    records.add(first, {"any": "id"}, answer={"generated_text": "half a pair: \ud800"})
    expected = {
        "line": 1,
        "digest": first.digest,
        "id": {"any": "id"},
        "answer": {"generated_text": "half a pair: \ud800"},
    }
    assert files.records == [expected]
    records.close()


def test_lines_without_a_record_are_missing(files: Files) -> None:
    assert files.missing() == [1, 2, 3, 4]
    files.answer(2, 3)
    assert files.missing() == [1, 4]
    files.answer(4)
    assert [each["line"] for each in files.records] == [2, 3, 4]


@pytest.mark.parametrize("n_bytes", [1, 5, 20, 60])
def test_a_last_line_that_was_cut_is_cut_off_and_asked_again(files: Files, n_bytes: int) -> None:
    files.answer(1, 2)
    whole = files.output.read_bytes()
    files.output.write_bytes(whole + whole.splitlines()[1][:n_bytes])
    assert files.missing() == [3, 4]
    assert files.output.read_bytes() == whole


def test_a_record_that_lacks_its_line_end_is_cut_off_too(files: Files) -> None:
    files.answer(1, 2)
    whole = files.output.read_bytes()
    files.output.write_bytes(whole[:-1])
    assert files.missing() == [2, 3, 4]
    assert files.output.read_bytes() == whole.splitlines(keepends=True)[0]


def test_only_a_first_record_that_was_cut_leaves_an_empty_file(files: Files) -> None:
    files.output.write_text('{"line": 1, "dig')
    assert files.missing() == [1, 2, 3, 4]
    assert files.output.read_bytes() == b""


def test_a_line_that_was_changed_is_asked_again_and_its_old_record_removed(files: Files) -> None:
    files.answer(1, 3, fails=(2,))
    files.write([LINES[0], '{"inputs": "mended"}', *LINES[2:]])
    assert files.missing() == [2, 4]
    assert [each["line"] for each in files.records] == [1, 3]


def test_lines_that_failed_are_asked_again_where_that_is_wanted(files: Files) -> None:
    files.answer(1, fails=(2, 3))
    assert files.missing() == [4]
    assert files.missing(asks_failed=True) == [2, 3, 4]
    assert [each["line"] for each in files.records] == [1]


def test_a_record_added_after_old_ones_were_removed_is_in_the_new_file(files: Files) -> None:
    files.answer(1, fails=(2, 3))
    records = Records(files.output)
    records.missing(prompts_of(files.prompts), asks_failed=True)
    prompts = {prompt.number: prompt for prompt in prompts_of(files.prompts)}
    records.add(prompts[2], None, answer="a")
    assert (records.n_records, records.n_failed) == (2, 0)
    records.close()
    assert [each["line"] for each in files.records] == [1, 2]
    assert [file.name for file in files.output.parent.iterdir() if file.name.startswith(".")] == []


def test_answers_to_other_prompts_are_not_touched(files: Files) -> None:
    files.answer(1, 2)
    before = files.output.read_bytes()
    files.write(['{"inputs": "something else"}'])
    with pytest.raises(ConfigError) as caught:
        files.missing()
    assert caught.value.code == "generate.other-prompts"
    assert files.output.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["notes of mine", "notes of mine\n", '{"a": 1}\n', "[1]\n", '{"line": "x", "digest": 1}\n']
)
def test_a_file_of_something_else_is_not_touched(files: Files, text: str) -> None:
    files.output.write_text(text)
    with pytest.raises(ConfigError) as caught:
        files.missing()
    assert caught.value.code == "generate.not-an-output"
    assert files.output.read_text() == text


def test_two_runs_do_not_write_one_file(files: Files) -> None:
    first = Records(files.output)
    with pytest.raises(ConfigError) as caught:
        Records(files.output)
    assert caught.value.code == "generate.output-in-use"
    first.close()
    Records(files.output).close()


def test_two_runs_do_not_write_one_file_that_was_replaced_meanwhile(files: Files) -> None:
    files.answer(1, fails=(2,))
    first = Records(files.output)
    first.missing(prompts_of(files.prompts), asks_failed=True)
    with pytest.raises(ConfigError) as caught:
        Records(files.output)
    assert caught.value.code == "generate.output-in-use"
    first.close()


def test_a_disk_that_is_full_is_told(files: Files) -> None:
    files.answer(1, 2)
    before = files.output.read_bytes()
    records = Records(files.output)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, most[1]))  # room for half a record
    try:
        with pytest.raises(LmiError) as caught:
            records.add(Prompt(number=3, digest="", text=b""), None, answer="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        records.close()
    assert caught.value.code == "generate.cannot-write"
    assert files.output.read_bytes() == before


@pytest.mark.parametrize("name", ["below/out.jsonl", "/dev/null", "/dev/full"])
def test_an_output_that_can_be_no_file_is_told(files: Files, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Records(files.output.parent / name)
    assert caught.value.code == "generate.cannot-write"


def test_prompts_that_are_not_there_are_told(files: Files) -> None:
    with pytest.raises(ConfigError) as caught:
        list(prompts_of(files.prompts.with_name("none")))
    assert caught.value.code == "generate.cannot-read"


# -------------------------------------------------------------------------------------------------------------- prompts


def test_empty_lines_are_no_prompts_and_keep_their_numbers(files: Files) -> None:
    files.write(["", LINES[0], "   ", LINES[1] + "  ", ""])
    prompts = list(prompts_of(files.prompts))
    assert [prompt.number for prompt in prompts] == [2, 4]
    files.write(LINES)
    assert [prompt.digest for prompt in prompts] == [prompt.digest for prompt in prompts_of(files.prompts)][:2]


@pytest.mark.parametrize(
    ("line", "named", "body"),
    [
        ('{"inputs": "a", "id": 7, "stream": true}', 7, {"inputs": "a"}),
        ('{"messages": [], "temperature": 0}', None, {"messages": [], "temperature": 0}),
    ],
)
def test_a_request_is_the_line_without_its_id_and_never_a_stream(line: str, named: object, body: object) -> None:
    found, sent = Prompt(number=1, digest="", text=line.encode()).request()
    assert (found, json.loads(sent)) == (named, body)


@pytest.mark.parametrize("line", [b"no json", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_no_object_is_refused_with_its_number(line: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        Prompt(number=12, digest="", text=line).request()
    assert caught.value.code == "generate.bad-line"
    assert "line 12" in str(caught.value)
