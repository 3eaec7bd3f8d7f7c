# SPDX-License-Identifier: Apache-2.0
"""Every rule, in the order in which they run: those that stop the server, or need another start, come last."""

from __future__ import annotations

from lmi.conformance import (
    abuse_rules,
    adapter_rules,
    batch_rules,
    invocation_rules,
    multi_model_rules,
    ping_rules,
    session_rules,
    start_rules,
    stop_rules,
    streaming_rules,
)
from lmi.conformance.rules import GROUPS, Rule, rules_of

RULES: list[Rule] = rules_of(
    [start_rules, ping_rules, invocation_rules, abuse_rules, streaming_rules, adapter_rules, session_rules, batch_rules,
     stop_rules, multi_model_rules]
)  # fmt: skip

BY_GROUP: list[Rule] = [each for group in GROUPS for each in RULES if each.group == group]
"""The same, as a reader wants them."""
