# SPDX-License-Identifier: Apache-2.0
"""docs/lmi-schema.md: its commands are answered as it shows, and its options are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from lmi.config.fields import keys_of
from lmi.config.options import ModelOptions
from lmi.serving import contents
from lmi.serving.invocation import Invocation
from tests.docs.pages import Page, code
from tests.servers import ServerProcess, serve

PAGE = Page("lmi-schema.md")
COMMANDS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE.text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("-o", "rolling_batch=echo") as process:
        yield process


@pytest.mark.parametrize(("command", "shown"), COMMANDS)
def test_a_command_is_answered_as_the_page_shows(server: ServerProcess, command: str, shown: str) -> None:
    curl, url, data, body = shlex.split(command)
    assert (curl, url, data) == ("curl", "localhost:8080/invocations", "-d")
    response = server.post(body.encode(), headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.text.strip() == shown.strip()


def test_the_page_has_every_field_of_a_body() -> None:
    assert {code(row[0])[0] for row in PAGE.rows("LMI's schema")} == set(Invocation.model_fields)


def test_every_content_type_of_the_page_is_read() -> None:
    named = [each for row in PAGE.rows("Content types") for each in code(row[0])]
    assert len(named) == 6
    body = b'{"inputs": "a"}'
    for content_type in named:
        assert contents.data_of(body if content_type != "text/csv" else b"inputs\na\n", content_type)


def test_options_that_the_page_names_are_options() -> None:
    named = set(re.findall(r"`(option\.\w+)", PAGE.text))
    assert len(named) > 5
    assert named <= set(keys_of(ModelOptions))
    assert f"({ModelOptions.model_fields['max_client_batch_size'].default})" in PAGE.text
    assert f"({ModelOptions.model_fields['max_batch_delay'].default} ms)" in PAGE.text
