# SPDX-License-Identifier: Apache-2.0
"""The contract as one test class: subclass it, say which backend, and every rule is a test."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import pytest

from lmi.testing.ability_rules import AbilityRules
from lmi.testing.artifact_rules import ArtifactRules
from lmi.testing.capability_rules import CapabilityRules
from lmi.testing.case import BackendCase
from lmi.testing.config_rules import ConfigRules
from lmi.testing.generation_rules import GenerationRules
from lmi.testing.kit import Kit
from lmi.testing.life_rules import LifeRules
from lmi.testing.plugin_rules import PluginRules
from lmi.testing.rules import ContractError, rules_of
from lmi.testing.stepper_rules import StepperRules

GROUPS_OF_RULES = (
    PluginRules, ConfigRules, ArtifactRules, GenerationRules, StepperRules, CapabilityRules, AbilityRules, LifeRules
)  # fmt: skip
RULES = rules_of(GROUPS_OF_RULES)
"""Rule id -> name of its test method and the method. An id never changes its meaning."""

_SHORTEST_REASON = 15


class BackendContract(*reversed(GROUPS_OF_RULES)):  # type: ignore[misc] # pytest runs the last parent's tests first
    """Every rule a backend keeps::

        class TestContract(BackendContract):
            case = BackendCase(backend="acme")

    There is nothing to skip: what a backend declares must work, what it does not declare is refused. A rule that is
    overridden or removed fails; one that cannot be kept yet is named in ``BackendCase.known_failures``.
    """

    case: ClassVar[BackendCase]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for rule_id, (name, test) in RULES.items():
            if getattr(cls, name, None) is not test:
                raise ContractError(
                    f"{cls.__name__} overrides or removes rule {rule_id} ({name}). If the backend cannot keep it yet, "
                    f'say so: BackendCase(known_failures={{"{rule_id}": "reason, link to the issue"}})'
                )
        case = getattr(cls, "case", None)
        if not isinstance(case, BackendCase):
            raise ContractError(f"{cls.__name__} has no case: case = BackendCase(backend=...)")
        for rule_id, reason in case.known_failures.items():
            cls._expect_failure(rule_id, reason)

    @classmethod
    def _expect_failure(cls, rule_id: str, reason: str) -> None:
        if rule_id not in RULES:
            raise ContractError(f"known_failures names rule {rule_id!r}; there are {', '.join(RULES)}")
        if len(reason.strip()) < _SHORTEST_REASON:
            raise ContractError(f"known_failures[{rule_id!r}] = {reason!r}: say why, with a link to the upstream issue")
        name, test = RULES[rule_id]

        @functools.wraps(test)
        def excused(self: Any, kit: Kit) -> None:
            test(self, kit)

        setattr(cls, name, pytest.mark.xfail(strict=True, reason=reason)(excused))

    @pytest.fixture
    def kit(self, lmi_kit: Kit) -> Kit:
        """The case made ready, once for the class; a project may have a fixture ``kit`` of its own elsewhere."""
        return lmi_kit

    def test_z_every_rule_is_here(self, request: pytest.FixtureRequest) -> None:
        """No rule was taken out after the class was made."""
        excused = request.cls.case.known_failures
        for rule_id, (name, test) in RULES.items():
            found = getattr(request.cls, name, None)
            own = getattr(found, "__wrapped__", None) if rule_id in excused else found
            assert own is test, f"rule {rule_id} ({name}) was replaced or removed"
