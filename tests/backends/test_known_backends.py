# SPDX-License-Identifier: Apache-2.0
"""What the core has written down of this project's backends is what they say of themselves."""

import json

import pytest

from tests.backends.known_backends import FILE, by_package

PACKAGES = json.loads(FILE.read_text("utf-8"))["packages"]


@pytest.mark.parametrize("entry", PACKAGES, ids=[entry["package"] for entry in PACKAGES])
def test_a_backend_is_written_down_as_it_describes_itself(entry):
    assert entry["backends"] == by_package()[entry["package"]], "run: python -m tests.backends.known_backends"
