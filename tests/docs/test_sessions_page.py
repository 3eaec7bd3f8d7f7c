# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/sessions.md, one after the other, against the echo."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.docs.pages import Page
from tests.sagemaker.emulators import emulator
from tests.wire.conftest import serve_echo


def test_the_commands_open_a_session_and_go_on_in_it(tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }};{% endfor %}")
    page = Page("sessions.md")
    [first] = page.listings("Sessions", "console")
    [second] = page.listings("A conversation that the server keeps", "console")
    with serve_echo(chat_template=template) as server:
        opened = run(first.splitlines()[0], server.url)
        header = re.search(r"^x-amzn-sagemaker-new-session-id: (\S+); Expires=\S+Z\r?$", opened, re.MULTILINE)
        assert header is not None, opened
        answered = run(second.replace("4cd4…", header[1]), server.url)
        assert '"content":"And of Spain?;' in answered


def test_boto3_opens_a_session_and_goes_on_in_it(tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }};{% endfor %}")
    [client] = Page("sessions.md").listings("Sessions", "python")
    with (
        serve_echo(chat_template=template) as server,
        emulator("--url", server.url, "--endpoint", "my-endpoint", is_ready=False) as local,
    ):
        local.in_service("my-endpoint")
        found: dict[str, Any] = {"runtime": local.runtime}
        exec(client, found)
        assert json.loads(found["answer"]["Body"].read())["choices"][0]["message"]["content"].startswith("What is the")
        assert not local.violations()


def run(command: str, url: str) -> str:
    script = command.removeprefix("$ ").replace("localhost:8080", url.removeprefix("http://"))
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
