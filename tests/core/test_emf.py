# SPDX-License-Identifier: Apache-2.0
"""Metrics as lines of a log: documents of CloudWatch's format, one an interval, none where nothing happened."""

from __future__ import annotations

import logging
import os

import jsonschema
import pytest

from lmi.serving.emf import UNITS, EmfLog, StdoutLines, as_dimension
from tests.emf_documents import document, metrics_of

REQUEST = (0.0125, 0.25, 0.03, 1.5, 11, 42)
"""Queue, first token, per token, whole; tokens of prompt and output."""


class Rig:
    def __init__(self, interval_s: float = 60.0) -> None:
        self.now_s = 1_800_000_000.0  # the beginning of a minute
        self.lines: list[bytes] = []
        self.log = EmfLog("LMI/test", interval_s=interval_s, write=self.lines.append, clock=lambda: self.now_s)

    def documents(self) -> list[dict]:
        return [document(line) for line in self.lines]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_request_is_a_document_of_the_format_with_milliseconds_and_counts(rig: Rig) -> None:
    rig.log.series("llama").add("ok", REQUEST)
    rig.log.close()
    [found] = rig.documents()
    assert metrics_of(found) == {
        "QueueTime": [12.5], "TimeToFirstToken": [250], "TimePerOutputToken": [30], "RequestLatency": [1500],
        "PromptTokens": [11], "OutputTokens": [42],
        "Requests": 1, "FailedRequests": 0, "CancelledRequests": 0, "RefusedRequests": 0,
    }  # fmt: skip
    [directive] = found["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"], found["Model"]) == ("LMI/test", [["Model"]], "llama")
    assert found["_aws"]["Timestamp"] == 1_800_000_000_000
    assert rig.lines[0].endswith(b"}\n")
    assert rig.lines[0].count(b"\n") == 1


def test_what_is_no_document_is_found_to_be_none() -> None:
    with pytest.raises(jsonschema.ValidationError):
        document('{"_aws": {"Timestamp": 1.5, "CloudWatchMetrics": []}}')
    metrics = '[{"Namespace": "N", "Dimensions": [[]], "Metrics": [{"Name": "A"}]}]'
    head = f'{{"_aws": {{"Timestamp": 1, "CloudWatchMetrics": {metrics}}}'
    assert document(f'{head}, "A": 1}}')["A"] == 1
    for target in ('{"Values": [1], "Counts": [5]}', '"1"', "[]", str([1] * 101)):
        with pytest.raises(AssertionError):
            document(f'{head}, "A": {target}}}')
    with pytest.raises(KeyError):
        document(f"{head}}}")


def test_what_a_request_has_not_is_left_out_and_outcomes_are_counted(rig: Rig) -> None:
    series = rig.log.series("llama")
    series.add("error", (0.5, None, None, 2, 7, 0))
    series.add("cancelled", (0.5, 0.75, None, 2, 7, 1))
    series.add("ok", REQUEST)
    series.refuse()
    rig.log.close()
    found = metrics_of(rig.documents()[0])
    counts = ("Requests", "FailedRequests", "CancelledRequests", "RefusedRequests")
    assert [found[name] for name in counts] == [3, 1, 1, 1]
    assert found["TimeToFirstToken"] == [750, 250]
    assert found["TimePerOutputToken"] == [30]
    assert found["QueueTime"] == [500, 500, 12.5]


def test_samples_tell_how_things_are(rig: Rig) -> None:
    series = rig.log.series("llama")
    series.sample((3, 1, 3.0, 0.25))
    series.sample((4, 0, None, 0.5))
    rig.log.close()
    found = metrics_of(rig.documents()[0])
    assert [found[name] for name in ("RequestsRunning", "RequestsWaiting", "BatchSize", "CacheUse")] == [
        [3, 4], [1, 0], [3], [0.25, 0.5],
    ]  # fmt: skip
    assert found["Requests"] == 0


def test_an_adapter_has_documents_of_its_own(rig: Rig) -> None:
    rig.log.series("llama").add("ok", REQUEST)
    rig.log.series("llama", "fr").add("ok", REQUEST)
    rig.log.close()
    base, adapter = rig.documents()
    assert adapter["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Model", "Adapter"]]
    assert (adapter["Model"], adapter["Adapter"], "Adapter" in base) == ("llama", "fr", False)
    assert "RefusedRequests" not in metrics_of(adapter)


def test_every_metric_has_its_unit(rig: Rig) -> None:
    series = rig.log.series("llama")
    series.add("ok", REQUEST)
    series.sample((1, 0, 1.0, 0.5))
    rig.log.close()
    [directive] = rig.documents()[0]["_aws"]["CloudWatchMetrics"]
    assert {each["Name"]: each["Unit"] for each in directive["Metrics"]} == UNITS


def test_a_line_comes_when_a_minute_of_the_clock_is_over_and_belongs_to_it(rig: Rig) -> None:
    series = rig.log.series("llama")
    rig.now_s += 58
    series.add("ok", REQUEST)
    rig.log.look()
    assert rig.lines == []
    rig.now_s += 2.7
    rig.log.look()
    [found] = rig.documents()
    assert found["_aws"]["Timestamp"] == 1_800_000_059_999
    rig.now_s += 60
    rig.log.look()
    assert len(rig.lines) == 1, "nothing happened, nothing is told"


def test_every_minute_has_one_line_however_late_anybody_looks(rig: Rig) -> None:
    series = rig.log.series("llama")
    for _ in range(600):
        rig.now_s += 1.013
        series.sample((1, 0, 1.0, None))
        rig.log.look()
    minutes = [found["_aws"]["Timestamp"] // 60_000 for found in rig.documents()]
    assert len(minutes) == 10
    assert len(set(minutes)) == 10


@pytest.mark.parametrize("kind", ["add", "sample"])
def test_a_line_comes_earlier_where_it_would_hold_too_many_values(rig: Rig, kind: str) -> None:
    series = rig.log.series("llama")
    for _ in range(250):
        if kind == "add":
            series.add("ok", REQUEST)
        else:
            series.sample((1, 0, 1.0, 0.5))
    assert len(rig.lines) == 2
    rig.log.close()
    name = "RequestLatency" if kind == "add" else "BatchSize"
    assert [len(found[name]) for found in rig.documents()] == [100, 100, 50]


def test_nothing_is_written_twice(rig: Rig) -> None:
    rig.log.series("llama").refuse()
    rig.log.close()
    rig.log.close()
    assert len(rig.lines) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [("llama-3 8b", "llama-3 8b"), ("mistral/7b", "mistral/7b"), ("größe", "gr%C3%B6%C3%9Fe"), ("a\nb", "a%0Ab"),
     (" ", " "), ("x" * 2000, "x" * 1024)],
)  # fmt: skip
def test_names_become_dimensions_that_cloudwatch_takes(name: str, shown: str) -> None:
    assert as_dimension(name).replace("%20", " ") == shown


def test_a_line_is_written_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bytes]] = []

    def write(number: int, data: bytes) -> int:
        calls.append((number, bytes(data)))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    StdoutLines().write(b"x" * 100_000 + b"\n")
    assert calls == [(1, b"x" * 100_000 + b"\n")]


def test_what_a_call_left_is_written_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(number: int, data: bytes) -> int:
        written.append(data[:3])
        return len(data[:3])

    monkeypatch.setattr(os, "write", write)
    StdoutLines().write(b"abcdefgh")
    assert written == [b"abc", b"def", b"gh"]


def test_where_nobody_reads_lines_are_lost_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(number: int, data: bytes) -> int:
        raise BrokenPipeError("nobody reads")

    monkeypatch.setattr(os, "write", write)
    lines = StdoutLines()
    with caplog.at_level(logging.WARNING):
        lines.write(b"a\n")
        lines.write(b"b\n")
    assert [record.getMessage() for record in caplog.records] == [
        "metrics cannot be written to standard output: nobody reads"
    ]
