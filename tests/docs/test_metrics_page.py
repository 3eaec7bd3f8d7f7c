# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md: its names are those that servers have, and its commands work."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmi.config.server import ServerOptions
from lmi.serving.emf import UNITS
from tests.docs.pages import Page, code
from tests.emf_documents import document
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo

PAGE = Page("metrics.md")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo(environ={"LMI_DIAGNOSTICS_TOKEN": "correct-horse-battery"}) as server:
        yield server


def run(server: ServerProcess, title: str) -> tuple[str, str]:
    """What a section's command prints, and what the page says it does."""
    [listing] = PAGE.listings(title, "console")
    command, _, shown = listing.removeprefix("$ ").partition("\nx-amzn")
    script = command.replace("localhost:8080", server.url.removeprefix("http://"))
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    return printed, "x-amzn" + shown


def test_every_metric_of_the_log_is_in_the_table() -> None:
    assert [name for row in PAGE.rows("Names") for name in code(row[2])] == list(UNITS)


def test_the_metrics_of_prometheus_are_there(server: ServerProcess) -> None:
    server.generate("abc", max_new_tokens=3)
    with server.client() as client:
        families = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    named = {re.sub(r"(_total)?({.*})?$", "", name) for row in PAGE.rows("Names") for name in code(row[1])}
    assert named <= families
    assert {"lmi_adapter_queue_seconds", "lmi_adapter_requests"} <= families


def test_the_example_of_a_line_is_a_document_of_the_format() -> None:
    [listing] = PAGE.listings("CloudWatch", "json")
    assert document(listing)["Requests"] == 2


def test_the_options_and_their_defaults_are_those_of_the_server() -> None:
    for row in PAGE.rows("CloudWatch"):
        [variable], [default] = code(row[0]), code(row[1])
        field = ServerOptions.model_fields[variable.removeprefix("SERVING_").lower()]
        assert str(field.default) == default


def test_as_many_metrics_as_the_page_says_are_paid_for() -> None:
    said = re.search(r"up to (\d+) for a model, (\d+) for an adapter", PAGE.section("CloudWatch"))
    assert said is not None
    of_models = {"RequestsRunning", "RequestsWaiting", "BatchSize", "CacheUse", "RefusedRequests"}
    assert (int(said[1]), int(said[2])) == (len(UNITS), len(UNITS.keys() - of_models))


def test_the_times_of_a_request_look_like_those_of_the_page(server: ServerProcess) -> None:
    printed, shown = run(server, "The times of one request")
    assert re.sub(r"=[^;\s]+", "=", printed.strip()) == re.sub(r"=[^;\s]+", "=", shown.strip())


def test_the_command_for_diagnostics_gets_them(server: ServerProcess) -> None:
    printed, _ = run(server, "Diagnostics")
    found = json.loads(printed)
    assert {"versions", "devices", "server", "models"} <= found.keys()
    assert {"stage", "timeline", "options"} <= found["server"].keys()
    assert {"workers", "losses", "options", "adapters", "cache_use"} <= found["models"][0].keys()


def test_the_line_of_a_start_looks_like_that_of_the_page(server: ServerProcess) -> None:
    [listing] = PAGE.listings("The start")
    pattern = r"INFO ready after \d+\.\d s: start server \d+\.\d, "
    assert re.match(pattern, listing)
    server.wait_for_line(pattern.removesuffix(", "))


def test_the_lines_of_failed_requests_are_as_the_page_has_them(server: ServerProcess) -> None:
    first, _ = PAGE.listings("Requests that failed")[0].splitlines()
    assert server.post({"inputs": "abc", "parameter": {}}, headers={"x-request-id": "65da62c3-7"}).status_code == 400
    server.wait_for_line(re.escape(first))
