# SPDX-License-Identifier: Apache-2.0
"""Which adapter a request asks for, by its header, body, query or attributes."""

from __future__ import annotations

import pytest

from lmi.api import RequestError
from lmi.serving.adapter_choice import asked_adapter

IDENTIFIER = {"x-amzn-sagemaker-adapter-identifier": "header"}


@pytest.mark.parametrize(
    ("named", "headers", "query", "asked"),
    [
        (None, {}, b"", ""),
        (["fr"], {}, b"", "fr"),
        ([""], {}, b"adapter=query", ""),
        ([], {}, b"adapter=query", "query"),
        (["fr"], IDENTIFIER, b"adapter=query", "header"),
        (None, IDENTIFIER, b"", "header"),
        (["fr"], {}, b"adapter=query", "fr"),
        (None, {"adapter": "plain"}, b"x=1&adapter=a%20b", "a b"),
        (None, {"adapter": "plain", "x-amzn-sagemaker-custom-attributes": "adapter=own"}, b"", "plain"),
        (None, {"x-amzn-sagemaker-custom-attributes": "trace=1; adapter = own ;x"}, b"x=1", "own"),
        (None, {"x-amzn-sagemaker-custom-attributes": "adapters=own"}, b"adapter=", ""),
    ],
)
def test_the_adapter_is_the_one_of_the_header_then_of_the_body_then_of_all_else(named, headers, query, asked) -> None:
    assert asked_adapter(named, headers, query) == asked


def test_two_adapters_for_one_text_are_refused() -> None:
    with pytest.raises(RequestError, match=r"adapters=\['fr', 'de'\] has 2 names for one text"):
        asked_adapter(["fr", "de"], {})
