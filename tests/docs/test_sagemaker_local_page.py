# SPDX-License-Identifier: Apache-2.0
"""docs/sagemaker-local.md: what it shows runs, and its tables are whole."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmi.cli.sagemaker_local import sagemaker_local
from lmi.sagemaker_local.times import NAMES, Times
from lmi.sagemaker_local.violations import RULES
from lmi.workers.mpi.variables import free_port
from tests.buckets import running_bucket
from tests.docs.pages import Page, code
from tests.limits import limit_s
from tests.sagemaker.emulators import QUICK, emulator
from tests.servers import eventually

PAGE = Page("sagemaker-local.md")
ECHO = ("-o", "rolling_batch=echo")
CLIENT = """
import contextlib, sys, boto3
runtime = boto3.client("sagemaker-runtime", endpoint_url=f"http://127.0.0.1:{sys.argv[1]}")
with contextlib.suppress(runtime.exceptions.ClientError):
    runtime.invoke_endpoint(EndpointName="model", Body='{"inputs": "x"}', TargetVariant=sys.argv[2])
"""


def listings(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.text, re.MULTILINE | re.DOTALL)
    return [text for each, text in found if each == language]


def commands() -> list[str]:
    return [line for listing in listings("") for line in listing.splitlines()]


def test_the_client_of_the_page_gets_its_answers_from_the_command_of_the_page() -> None:
    first = shlex.split(commands()[0])
    assert first == ["lmi", "sagemaker-local", "/path/to/model"]
    [client] = listings("python")
    shown = re.search(r"`(AWS_DEFAULT_REGION=.*?)`", PAGE.text)
    assert shown
    environ = dict(pair.split("=") for pair in shown[1].split())
    with emulator(*ECHO, *QUICK) as local:
        done = subprocess.run(
            [sys.executable, "-c", client.replace("http://127.0.0.1:8081", local.url)],
            env={**os.environ, **environ}, capture_output=True, text=True, timeout=limit_s(60), check=True,
        )  # fmt: skip
        without_url = client.replace(', endpoint_url="http://127.0.0.1:8081"', "")
        again = subprocess.run(
            [sys.executable, "-c", without_url],
            env={**os.environ, **environ, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": local.url},
            capture_output=True, text=True, timeout=limit_s(60), check=True,
        )  # fmt: skip
    for each in (done, again):
        first, *parts = each.stdout.splitlines()
        assert first == "The capi"
        assert b"".join(map(ast.literal_eval, parts)).splitlines()[-1].endswith(b'"generated_text":"The capi"}')


def test_every_command_of_the_page_is_one() -> None:
    for line in commands():
        program, name, *words = shlex.split(line)
        assert (program, name) == ("lmi", "sagemaker-local")
        sagemaker_local.make_context(name, words)


def test_every_flag_is_in_the_table_and_no_other() -> None:
    listed = [flag for row in PAGE.rows("What is behind it") for flag in code(row[0]) if flag.startswith("--")]
    known = {flag for option in sagemaker_local.params for flag in option.opts if flag[:2] == "--"}
    assert sorted(listed) == sorted(known)


def test_every_rule_is_in_the_table_with_whose_duty_it_is() -> None:
    listed = [(code(row[0])[0], row[1]) for row in PAGE.rows("Violations")]
    assert listed == [(name, rule.of) for name, rule in RULES.items()]


def test_every_time_is_in_the_table_with_its_seconds() -> None:
    times = Times()
    listed = {code(row[0])[0]: float(row[1]) for row in PAGE.rows("Times")}
    assert listed == {name: getattr(times, name.replace("-", "_")) for name in NAMES}


def test_a_client_that_puts_and_fetches_objects_runs_unchanged_with_a_server_for_them() -> None:
    [script] = PAGE.listings("Asynchronous calls", "sh")
    install, start, export, create, last = script.splitlines()
    assert install == "pip install 'moto[s3,server]'"
    assert (Path(sys.executable).parent / start.split()[0]).is_file()
    with running_bucket() as bucket:
        name, _ = export.removeprefix("export ").split("=")
        environ = {**bucket.environ, name: bucket.environ["AWS_ENDPOINT_URL"], "AWS_DEFAULT_REGION": "us-east-1"}
        program, *words = shlex.split(create)
        assert program == "python"
        subprocess.run([sys.executable, *words], env={**os.environ, **environ}, check=True, timeout=limit_s(60))
        with emulator(*shlex.split(last)[3:], *ECHO, *QUICK, environ=environ) as local:
            bucket.put("in.json", '{"inputs": "Hello", "parameters": {"max_new_tokens": 5}}')
            told = local.runtime.invoke_endpoint_async(EndpointName="model", InputLocation="s3://bucket/in.json")
            assert told["OutputLocation"].startswith("s3://bucket/answers/")
            key = told["OutputLocation"].removeprefix("s3://bucket/")
            eventually(lambda: key in bucket.times("answers/"), 20)
            assert bucket.get(key) == b'{"generated_text":"Hello"}'


@pytest.mark.parametrize(("variant", "code"), [("AllTraffic", 0), ("Canary", 1)])
def test_a_pipeline_fails_by_what_its_client_breaks(tmp_path: Path, variant: str, code: int) -> None:
    [script] = PAGE.listings("Violations", "sh")
    port = free_port()
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    words = shlex.join([sys.executable, "-m", "lmi", "sagemaker-local", "--port", str(port), *ECHO, *QUICK])
    script = script.replace("lmi sagemaker-local /path/to/model", words).replace("8081", str(port))
    script = script.replace(
        "python -m pytest tests_of_the_client", shlex.join([sys.executable, str(client), str(port), variant])
    )
    names = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=limit_s(60),
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
