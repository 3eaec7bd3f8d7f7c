# SPDX-License-Identifier: Apache-2.0
"""``lmi bench --endpoint`` measures an endpoint through the runtime's route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sagemaker.emulators import QUICK, Emulator, emulator
from tests.wire.conftest import serve_echo
from tests.wire.test_bench import TEMPLATE, bench, report_of


@pytest.fixture(scope="module")
def narrow() -> Iterator[Emulator]:
    """In front of a server with one slot, and room for one more to wait."""
    with (
        serve_echo(max_rolling_batch_size=1, job_queue_size=1, step_delay_ms=5, chat_template=TEMPLATE) as server,
        emulator("--url", server.url, "--endpoint", "mine", *QUICK, is_ready=False) as local,
    ):
        yield local.in_service("mine")


@pytest.mark.parametrize("schema", ["lmi", "chat", "completions"])
def test_every_schema_is_measured_through_the_platform(narrow: Emulator, tmp_path: Path, schema: str) -> None:
    told = ("--at-once", "1", "2", "--n-requests", "4", "--output-tokens", "12", "--report", str(tmp_path))
    done = bench(narrow.url, "--endpoint", "mine", "--schema", schema, *told)
    assert done.returncode == 0, done.stdout + done.stderr
    for level in report_of(tmp_path)["levels"]:
        assert (level["n_requests"], level["n_errors"], level["n_tokens"]) == (4, 0, 4 * 12)
        assert level["is_by_pieces"] is False
        assert level["tokens_per_arrival"] < 4, "the events come while the answer is made"
    assert [each for each in narrow.violations() if not each["rule"].endswith(".time")] == []


def test_what_the_container_refuses_has_its_own_code(narrow: Emulator) -> None:
    done = bench(narrow.url, "--endpoint", "mine", "--at-once", "8", "--output-tokens", "20", "--no-warm-up")
    assert (done.returncode, "x queue.full: " in done.stdout) == (1, True), done.stdout
    assert "next: job_queue_size: " in done.stdout


def test_an_endpoint_that_there_is_not_is_told(narrow: Emulator) -> None:
    done = bench(narrow.url, "--endpoint", "nobody")
    assert done.returncode == 1
    assert "bench.no-answer: the first request failed with ValidationError: Endpoint nobody of" in done.stderr


def test_an_endpoint_has_its_own_path(narrow: Emulator) -> None:
    done = bench(narrow.url, "--endpoint", "mine", "--path", "/invocations")
    assert (done.returncode, "--path and --endpoint do not go together" in done.stderr) == (2, True)
