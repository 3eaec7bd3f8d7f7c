# SPDX-License-Identifier: Apache-2.0
"""``lmi conformance`` as it is called: this server under it, exit codes, reports, what it says of a wrong call."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmi.conformance.rules import GROUPS
from lmi.workers.mpi.variables import free_port
from tests.limits import SCALE, limit_s
from tests.sagemaker.faulty_container import running

LMI = str(Path(sys.executable).with_name("lmi"))


def judge(*args: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [LMI, "conformance", "--timeout-scale", str(SCALE), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s(seconds), check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is found of ``lmi serve`` with the echo backend."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "model").mkdir()
    serve = f"{LMI} serve -o rolling_batch=echo -o step_delay_ms=5 -o heartbeat_interval=0.1"
    done = judge(
        "--command", serve, "--broken-command", f"{LMI} serve {folder}/nothing", "--broken-cause", "model.not-found",
        "--model-folder", str(folder / "model"), "--json", str(folder / "report.json"), seconds=120,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return {**found, "returncode": done.returncode, "output": done.stdout + done.stderr}


def outcomes(report: dict[str, Any], outcome: str) -> set[str]:
    return {each["id"] for each in report["rules"] if each["outcome"] == outcome}


def test_this_server_does_everything_that_it_must(report: dict[str, Any]) -> None:
    broken = [each for each in report["rules"] if each["outcome"] == "fail" and each["level"] == "must"]
    assert broken == []
    assert report["returncode"] == 0, report["output"]


def test_this_server_does_what_it_should(report: dict[str, Any]) -> None:
    broken = {each["id"]: each["reason"] for each in report["rules"] if each["outcome"] == "fail"}
    assert broken == {}


def test_it_is_started_and_stopped_for_the_rules_about_that(report: dict[str, Any]) -> None:
    assert {each["id"] for each in report["rules"] if each["id"].startswith("process.")} <= outcomes(report, "pass")


def test_what_it_does_not_have_is_not_applicable(report: dict[str, Any]) -> None:
    absent = outcomes(report, "not-applicable")
    assert {each.partition(".")[0] for each in absent} <= {"adapters", "sessions", "batch", "streaming"}


def test_the_report_has_evidence(report: dict[str, Any]) -> None:
    [ping] = [each for each in report["rules"] if each["id"] == "ping.answers-within-2s"]
    [seen] = ping["evidence"]
    assert (seen["request"], seen["status"]) == ("GET /ping", 200)
    assert 0 < seen["seconds"] < 2
    assert seen["headers"]["content-type"] == "application/json"
    assert (ping["basis"], ping["level"]) == ("documented", "must")
    assert ping["url"].startswith("https://docs.aws.amazon.com/")


def test_a_broken_must_is_exit_code_1_and_its_reason_is_told(tmp_path: Path) -> None:
    with running("invocations.refuses-arrays") as url:
        done = judge("--url", url, "--only", "invocations.refuses-arrays", "--markdown", str(tmp_path / "report.md"))
    assert done.returncode == 1, done.stderr
    assert "FAIL  must    invocations.refuses-arrays: a JSON array is refused with 400" in done.stdout
    assert "POST /invocations was answered 500" in " ".join(done.stdout.split())
    assert "1 rules: 1 fail; of the failures 1 of what it must do" in done.stdout
    assert "| `invocations.refuses-arrays` | must |" in (tmp_path / "report.md").read_text()


def test_a_broken_should_is_exit_code_0() -> None:
    with running("ping.takes-post") as url:
        done = judge("--url", url, "--only", "ping.takes-post")
    assert done.returncode == 0
    assert "FAIL  should  ping.takes-post" in done.stdout


def test_a_running_server_is_not_stopped() -> None:
    with running() as url:
        done = judge("--url", url, "--only", "process.ends-on-sigterm")
        assert judge("--url", url, "--only", "ping.answers-within-2s").returncode == 0
    assert "it needs --command" in done.stdout


def test_a_body_of_ones_own_is_sent_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"inputs": "Hello"}')
    with running() as url:
        done = judge(
            "--url",
            url,
            "--body-file",
            str(tmp_path / "body.json"),
            "--only",
            "invocations",
            "--json",
            str(tmp_path / "report.json"),
        )
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "report.json").read_text())["rules"][0]["evidence"]
    assert {each["sent"] for each in found if "sent" in each} == {'{"inputs": "Hello"}'}


def test_a_body_in_another_schema_leaves_out_what_would_change_it() -> None:
    with running() as url:
        done = judge("--url", url, "--body", "[1]", "--only", "invocations.refuses-wrong-types")
    assert "no body is answered with 200: give one with --body" in done.stdout


def test_the_list_has_every_rule_with_its_source() -> None:
    done = judge("--list")
    assert done.returncode == 0
    assert all(f"\n{group}." in f"\n{done.stdout}" for group in GROUPS)
    assert "documented: Custom Inference Code with Hosting Services https://docs.aws.amazon.com/" in " ".join(
        done.stdout.split()
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "Give one of --url and --command"),
        (("--url", "http://localhost:1", "--command", "x"), "Give one of --url and --command"),
        (("--url", "http://localhost:1", "--only", "pings"), "no rule and no group 'pings'. Did you mean 'ping'?"),
        (("--url", "http://localhost:1", "--adapter", "poems"), "'poems' is not written as NAME=SOURCE"),
        (("--url", "unix:/run/lmi.sock"), "The platform speaks TCP"),
        (("--url", "ftp://somewhere"), "client.bad-url"),
        (("--command", "serve 'it"), "is no command: No closing quotation"),
        (("--command", "/no/such/program serve", "--only", "ping"), "conformance.no-command: '/no/such/program serve'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_exit_code_2_and_says_what_to_do(args: tuple[str, ...], said: str) -> None:
    done = judge(*args)
    assert done.returncode == 2, done.stdout
    assert said in " ".join(done.stderr.split())


def test_nobody_there_is_exit_code_2() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = judge("--url", url)
    assert done.returncode == 2
    assert f"conformance.unreachable: nobody answers at {url}" in done.stderr


def test_the_port_is_told_where_the_command_says_so() -> None:
    program = shlex.join([sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"])
    done = judge(
        "--command", program, "--start-s", "5", "--only", "process.binds-early", "--only", "process.becomes-ready"
    )
    assert "pass  should  process.binds-early" in done.stdout
    assert "/ping was not 200 after" in done.stdout
    assert done.returncode == 1
