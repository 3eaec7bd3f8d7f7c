# SPDX-License-Identifier: Apache-2.0
"""The table of violations at the end of a run."""

from __future__ import annotations

from lmi.sagemaker_local.violations import Violations


def test_the_table_has_each_thing_that_happened_with_its_number_in_the_order_of_the_rules() -> None:
    found = Violations()
    for message in ("b", "a", "b"):
        found.add("call.invalid", "chat", message)
    found.add("ping.time", "chat", "late")
    assert found.summary() == [
        "4 violations",
        "rule          endpoint  of         times  what happened",
        "ping.time     chat      container  1      late",
        "call.invalid  chat      client     2      b",
        "call.invalid  chat      client     1      a",
    ]


def test_of_many_things_about_one_rule_ten_are_told_and_the_others_counted() -> None:
    found = Violations()
    for number in range(40):
        found.add("call.invalid", "chat", str(number // 2))
    lines = found.summary()
    assert len(lines) == 2 + 10 + 1
    assert lines[-2:] == [
        "call.invalid  chat      client  2      9",
        "call.invalid  chat      client  20     something else; the log has it",
    ]
