# SPDX-License-Identifier: Apache-2.0
"""The rules of hosting, and who broke which."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

_LOG = logging.getLogger(__name__)
_N_TOLD = 10
"""How many messages about one rule and endpoint the table at the end has."""

_GUIDE = "Developer Guide, Custom Inference Code with Hosting Services"
_MULTI_MODEL = "Developer Guide, Build Your Own Container for Multi-Model Endpoints"
_MODEL = "service model of sagemaker-runtime"
_ADAPTERS = "Developer Guide, Adapter Inference Components"
_FAQ = "Developer Guide, Model Hosting FAQs"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        says: what has to be so.
        source: who says it.
        of: whose duty it is: ``container``, ``client`` or ``deployer``.
    """

    says: str
    source: str
    of: str = "container"


RULES = {
    "tcp.accept": Rule(says="A connection is accepted within 250 ms.", source=_GUIDE),
    "start.time": Rule(says="/ping answers 200 within the start-up time, 8 minutes by default.", source=_GUIDE),
    "start.ended": Rule(says="The container does not end before it is healthy.", source=_GUIDE),
    "ping.time": Rule(says="/ping is answered within 2 s, also while the model loads or computes.", source=_GUIDE),
    "ping.healthy": Rule(says="/ping keeps answering 200 once it has.", source=_GUIDE),
    "process.ended": Rule(says="The container does not end by itself.", source=_GUIDE),
    "stop.time": Rule(says="The container has ended 30 s after SIGTERM.", source=_GUIDE),
    "invocation.time": Rule(says="An invocation is answered within 60 s.", source=_GUIDE),
    "stream.time": Rule(says="A stream has ended after 8 minutes.", source=_GUIDE),
    "answer.cut": Rule(says="An answer is sent to its end.", source=_GUIDE),
    "response.body": Rule(says="The body of an answer is at most 25 MB.", source=_FAQ),
    "response.header": Rule(
        says="Of the response's headers clients get Content-Type, Custom-Attributes and the session's; no other.",
        source=_MODEL,
    ),
    "response.custom-attributes": Rule(says="Custom-Attributes are at most 1024 ASCII characters.", source=_MODEL),
    "sessions.header": Rule(
        says="New-Session-Id is 'ID; Expires=YYYY-MM-DDTHH:MM:SSZ', Closed-Session-Id the ID.", source=_MODEL
    ),
    "sessions.missing": Rule(says="NEW_SESSION is answered with a New-Session-Id.", source=_MODEL),
    "models.route": Rule(says="A multi-model container has /models and what is below it.", source=_MULTI_MODEL),
    "models.load-time": Rule(says="A model is loaded within 360 s.", source=_MULTI_MODEL),
    "models.unload": Rule(says="DELETE /models/NAME unloads the model and answers 200.", source=_MULTI_MODEL),
    "adapters.register": Rule(says="POST /adapters registers an adapter and answers 200.", source=_ADAPTERS),
    "call.body": Rule(says="The body of a request is at most 25 MB.", source=_FAQ, of="client"),
    "call.header": Rule(says="A request has no headers of its own: they are stripped.", source=_MODEL, of="client"),
    "call.invalid": Rule(says="A call fits the service model, and the endpoint.", source=_MODEL, of="client"),
    "async.input": Rule(says="The input of an asynchronous request is at most 1 GB.", source=_FAQ, of="client"),
    "environment.size": Rule(
        says="The environment has at most 100 pairs, 1024 bytes a name or value, 32 KB in all.",
        source="CreateModel, Environment",
        of="deployer",
    ),
}
"""Name -> rule, in the order in which the life of a container meets them."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that was broken once.

    Args:
        rule: its name.
        endpoint: where.
        message: what happened, with the numbers.
        at: when, in ISO 8601.
        of: whose duty it was.
        says, source: of the rule.
    """

    rule: str
    endpoint: str
    message: str
    at: str
    of: str
    says: str
    source: str


class Violations:
    """What was broken so far; each is logged when it happens."""

    def __init__(self) -> None:
        self._all: list[Violation] = []
        self._told: set[tuple[str, str, str]] = set()

    def add(self, rule: str, endpoint: str, message: str, *, once: bool = False) -> None:
        """Keep and log one.

        Args:
            rule: name of the rule.
            endpoint: where.
            message: what happened, with the numbers.
            once: whether the same words about the same endpoint are told a single time.
        """
        if once and (rule, endpoint, message) in self._told:
            return
        self._told.add((rule, endpoint, message))
        broken = RULES[rule]
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._all.append(
            Violation(rule=rule, endpoint=endpoint, message=message, at=now,
                      of=broken.of, says=broken.says, source=broken.source)
        )  # fmt: skip
        told = message.rstrip(".")
        _LOG.warning("violation %s: endpoint %s: %s. %s (%s)", rule, endpoint, told, broken.says, broken.source)

    def __len__(self) -> int:
        return len(self._all)

    def as_json(self) -> dict[str, Any]:
        """All of them, as GET /violations has them."""
        return {"violations": [asdict(each) for each in self._all]}

    def summary(self) -> list[str]:
        """A table: how often which rule was broken where, by what happened."""
        if not self._all:
            return ["no violations"]
        counts: dict[tuple[str, str], Counter[str]] = {}
        for each in self._all:
            counts.setdefault((each.rule, each.endpoint), Counter())[each.message] += 1
        rows = [("rule", "endpoint", "of", "times", "what happened")]
        for rule, name in sorted(counts, key=lambda key: (list(RULES).index(key[0]), key[1])):
            messages = list(counts[rule, name].items())
            told, others = messages[:_N_TOLD], messages[_N_TOLD:]
            if others:
                told.append(("something else; the log has it", sum(n for _, n in others)))
            rows += [(rule, name, RULES[rule].of, str(n), message) for message, n in told]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
                 for row in rows]  # fmt: skip
        n_all = len(self._all)
        return [f"{n_all} violation{'' if n_all == 1 else 's'}", *lines]
