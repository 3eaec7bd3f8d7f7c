# SPDX-License-Identifier: Apache-2.0
"""Batch transform."""

from __future__ import annotations

from typing import Any

from lmi.conformance import sources
from lmi.conformance.rules import Level, NotApplicable, expect, rule
from lmi.conformance.subject import Subject
from lmi.sagemaker_limits import BATCH_PAYLOAD_PRODUCT_MB

_STRATEGIES = ("MULTI_RECORD", "SINGLE_RECORD")


def _parameters(subject: Subject) -> dict[str, Any]:
    answer = subject.ask("GET", "/execution-parameters")
    if not answer.is_ok:
        raise NotApplicable(f"GET /execution-parameters, which is optional, is answered {answer.status}")
    found = answer.json()
    expect(isinstance(found, dict), f"{answer.told()}; expected an object")
    return dict(found)


@rule("batch.says-its-parameters", "GET /execution-parameters has three keys of the right types", Level.MUST,
      sources.BATCH)  # fmt: skip
def says_its_parameters(subject: Subject) -> None:
    """MaxConcurrentTransforms and MaxPayloadInMB are whole numbers, BatchStrategy is MULTI_RECORD or SINGLE_RECORD."""
    found = _parameters(subject)
    for name, least in (("MaxConcurrentTransforms", 1), ("MaxPayloadInMB", 0)):
        value = found.get(name)
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
        expect(is_number, f"{name} is {value!r}; expected a whole number from {least}")
    strategy = found.get("BatchStrategy")
    expect(strategy in _STRATEGIES, f"BatchStrategy is {strategy!r}; expected one of {', '.join(_STRATEGIES)}")


@rule("batch.asks-for-what-is-allowed", "concurrency times payload is 100 MB at most", Level.SHOULD, sources.BATCH_JOB)
def asks_for_what_is_allowed(subject: Subject) -> None:
    """MaxConcurrentTransforms times MaxPayloadInMB: the platform refuses jobs with more."""
    found = _parameters(subject)
    numbers = [found.get("MaxConcurrentTransforms"), found.get("MaxPayloadInMB")]
    if not all(isinstance(each, int) for each in numbers):
        raise NotApplicable("the two are no numbers")
    product = int(str(numbers[0])) * int(str(numbers[1]))
    expect(product <= BATCH_PAYLOAD_PRODUCT_MB, f"it is {product} MB; {BATCH_PAYLOAD_PRODUCT_MB} are allowed")
