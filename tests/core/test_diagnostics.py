# SPDX-License-Identifier: Apache-2.0
"""Which bodies ask for diagnostics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmi.serving.diagnostics import is_asked

TOKEN = "0123456789abcdefé"


@pytest.mark.parametrize(
    "text", [json.dumps({"lmi": "diagnostics", "token": TOKEN}), f'{{"token":"{TOKEN}","lmi":"diagnostics"}}']
)
def test_with_the_token_it_is_asked(text: str) -> None:
    assert is_asked(text.encode(), TOKEN)


@pytest.mark.parametrize(
    "body",
    [
        {"lmi": "diagnostics", "token": TOKEN[:-1]},
        {"lmi": "diagnostics", "token": TOKEN + "x"},
        {"lmi": "diagnostics", "token": ""},
        {"lmi": "diagnostics", "token": None},
        {"lmi": "diagnostics", "token": [TOKEN]},
        {"lmi": "diagnostics"},
        {"lmi": "else", "token": TOKEN},
        {"lmi": "diagnostics", "token": TOKEN, "inputs": "abc"},
        {"inputs": json.dumps({"lmi": "diagnostics", "token": TOKEN})},
        [{"lmi": "diagnostics", "token": TOKEN}],
        "lmi",
    ],
)
def test_any_other_body_is_the_models(body: Any) -> None:
    assert not is_asked(json.dumps(body).encode(), TOKEN)


@pytest.mark.parametrize(
    "body",
    [b"", b'{"lmi"', b'"lmi"', b'\xff{"lmi": "diagnostics"}', b'{"lmi": "\xff"}', b'{"lmi":' + b"[" * 4000],
    ids=["empty", "cut", "text", "begins-wrong", "no-utf8", "deep"],
)
def test_what_is_no_json_is_the_models(body: bytes) -> None:
    assert not is_asked(body, TOKEN)
