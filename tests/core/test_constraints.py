# SPDX-License-Identifier: Apache-2.0
"""Constraints that nobody can obey are refused before they get to an engine, and nobody waits meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lmi.api import BackendInfo, Constraint, RequestError
from lmi.serving import constraints
from lmi.serving.constraints import refuse_wrong

INFO = BackendInfo(name="toy", summary="A backend.")
OWN = BackendInfo(name="toy", summary="A backend.", own_constraints=True)


def judge(source: str, info: BackendInfo) -> None:
    constraint = Constraint(kind="regex", source=source)
    asyncio.run(refuse_wrong(constraint, info, lambda field, value: f"guided_regex={source!r}"))


@pytest.mark.parametrize("info", [INFO, OWN])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a(", r"guided_regex='a\(': it is no regular expression: missing \)"),
        ("[", "it is no regular expression: unterminated"),
        ("a{99999999999999999999}", "it is no regular expression"),
    ],
)
def test_what_is_no_regular_expression_in_any_dialect_is_refused(source: str, said: str, info: BackendInfo) -> None:
    with pytest.raises(RequestError, match=said):
        judge(source, info)


@pytest.mark.parametrize("source", [r"\p{L}+", "(?<name>a)", r"(a)\1"])
def test_an_engine_that_reads_constraints_itself_gets_what_one_dialect_has(source: str) -> None:
    judge(source, OWN)


def test_a_long_regular_expression_is_compiled_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    compiled = constraints.re.compile
    monkeypatch.setattr(
        constraints.re, "compile", lambda *args: threads.append(threading.current_thread()) or compiled(*args)
    )
    judge("(ab|cd)?" * 50, INFO)
    assert threads and threading.main_thread() not in threads
