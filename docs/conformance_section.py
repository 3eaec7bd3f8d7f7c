# SPDX-License-Identifier: Apache-2.0
"""The table of the rules of SageMaker's container contract, from the rules themselves."""

from __future__ import annotations

from lmi.conformance.all_rules import BY_GROUP
from lmi.conformance.report import rules_table


def conformance_section() -> str:
    """One row a rule."""
    return rules_table(BY_GROUP)
