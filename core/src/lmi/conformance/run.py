# SPDX-License-Identifier: Apache-2.0
"""Judge a server by rules, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmi.api.errors import ConfigError, LmiError
from lmi.client import Target
from lmi.conformance.rules import Broken, NotApplicable, Rule, Skipped
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Line
from lmi.sagemaker_limits import PING_S

PASS, FAIL, NOT_APPLICABLE, SKIPPED = "pass", "fail", "not-applicable", "skipped"
OUTCOMES = (PASS, FAIL, NOT_APPLICABLE, SKIPPED)

_MOST_EVIDENCE = 8


@dataclass
class Outcome:
    """What came of one rule.

    Args:
        rule: the rule.
        outcome: one of OUTCOMES.
        reason: why it is no pass; empty for one.
        seconds: what judging it took.
        evidence: requests and answers, and observations.
    """

    rule: Rule
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    evidence: list[dict[str, Any]] = field(default_factory=list)


def judge(subject: Subject, rules: Sequence[Rule], tell: Callable[[Outcome | Rule], None]) -> list[Outcome]:
    """The outcome of each rule.

    Args:
        subject: the server.
        rules: in the order in which they run.
        tell: called with a rule when it begins, and with its outcome.
    """
    outcomes = []
    for each in rules:
        tell(each)
        outcomes.append(_judged(subject, each))
        tell(outcomes[-1])
    return outcomes


def _judged(subject: Subject, rule: Rule) -> Outcome:
    subject.evidence = []
    began_s = time.monotonic()
    outcome, reason = PASS, ""
    try:
        rule.check(subject)
    except Broken as error:
        outcome, reason = FAIL, str(error)
    except NotApplicable as error:
        outcome, reason = NOT_APPLICABLE, str(error)
    except Skipped as error:
        outcome, reason = SKIPPED, str(error)
    except LmiError:
        raise
    except Exception as error:  # an answer that nobody thought of: the other rules are judged all the same
        outcome, reason = SKIPPED, f"it could not be judged: {type(error).__name__}: {error}"
    return Outcome(rule, outcome, reason, time.monotonic() - began_s, subject.evidence[:_MOST_EVIDENCE])


def expect_reachable(target: Target, url: str) -> None:
    """Find out that somebody is there before anything is judged.

    Raises:
        ConfigError: nobody is.
    """
    with Line(target, PING_S) as line:
        try:
            line.connect()
        except OSError as error:
            hint = "Start the server, or let --command start it"
            raise ConfigError("conformance.unreachable", f"nobody answers at {url}: {error}", (), hint) from error
