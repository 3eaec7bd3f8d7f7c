# SPDX-License-Identifier: Apache-2.0
"""The page of a request's parameters has all of them, with the defaults and bounds that they have."""

from __future__ import annotations

import re
from pathlib import Path

from lmi.serving.parameters import MOST_SEQUENCES, Parameters

PAGE = (Path(__file__).parents[2] / "docs" / "parameters.md").read_text("utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
NAMED = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}


def test_the_page_has_every_parameter_under_all_its_names_and_no_other() -> None:
    names = set(Parameters.model_fields) | {each.alias for each in Parameters.model_fields.values() if each.alias}
    assert set(NAMED) == names


def test_numbers_and_switches_have_the_defaults_of_the_page() -> None:
    wrong = []
    for name, field in Parameters.model_fields.items():
        told = NAMED[name][1] if len(NAMED[name]) == 3 else ""
        if isinstance(field.default, bool | int | float) and told != str(field.default).lower():
            wrong.append((name, told, field.default))
    assert wrong == []


def test_the_bound_of_sequences_is_that_of_the_page() -> None:
    for name in ("n", "best_of", "num_beams"):
        assert f"at most {MOST_SEQUENCES}" in NAMED[name][2]
