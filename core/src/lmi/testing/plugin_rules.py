# SPDX-License-Identifier: Apache-2.0
"""P: a plugin can be installed, listed and described on a machine that has neither its engine nor a device."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from lmi.plugins import State
from lmi.testing import isolated
from lmi.testing.kit import Kit
from lmi.testing.live import TIME_SCALE
from lmi.testing.rules import rule

HEAVY = ("torch", "transformers", "jax", "tensorflow", "onnxruntime")
"""Libraries that no plugin may import before it loads, whether it declares them or not."""

_LONGEST_DESCRIPTIONS_S = 1.0


class PluginRules:
    """Rules P1 to P4."""

    @rule("P1", "importing the plugin imports no engine library")
    def test_p1_light_import(self, kit: Kit) -> None:
        modules = isolated.ask(isolated.modules_after_listing, backend=kit.info.name)
        heavy = engine_modules(kit).union(HEAVY) & set(modules)
        assert not heavy, f"listing the plugin imports {', '.join(sorted(heavy))}: import it in lmi_load_engine"

    @rule("P2", "hooks have the specified names and parameters")
    def test_p2_hooks(self, kit: Kit) -> None:
        record = kit.record
        assert record.state is State.READY, (
            f"{record.package} is {record.state.value}: {record.reason}\n{record.traceback}"
        )

    @rule("P3", "the description is instant, always the same, and imports nothing")
    def test_p3_description(self, kit: Kit) -> None:
        found = isolated.ask(isolated.description, backend=kit.info.name)
        assert found["is_equal"], "two descriptions differ"
        assert not found["imported"], f"describing imports {', '.join(found['imported'][:5])}"
        limit_s = _LONGEST_DESCRIPTIONS_S * TIME_SCALE
        assert found["cpu_s"] < limit_s, (
            f"a hundred descriptions took {found['cpu_s']:.1f} s of CPU, {limit_s:g} allowed"
        )

    @rule("P4", "without its engine library, loading says how to install it")
    def test_p4_engine_absent(self, kit: Kit) -> None:
        plan = kit.plan()
        absent = sorted(engine_modules(kit))
        found = isolated.ask(
            isolated.load_without,
            backend=kit.info.name,
            artifacts=msgspec.to_builtins(plan.artifacts),
            options=plan.config.model_dump(mode="json"),
            absent=absent,
        )
        if absent:
            text = f"without {', '.join(absent)}, loading ended with {found['error']}: {found.get('message')}"
            assert found["error"], f"it loads without {', '.join(absent)}, which it declares as engine libraries"
            assert "install" in found["hint"], f"{text}; nothing tells how to install them"
            return
        assert not found["error"], f"it could not be loaded: {found['error']}: {found.get('message')}"
        undeclared = _distributions(found["modules"]) - _required_by(["lmi-core", kit.record.distribution])
        assert not undeclared, f"loading uses {', '.join(sorted(undeclared))}: declare them as engine_libraries"


def engine_modules(kit: Kit) -> set[str]:
    """Top-level modules of the engine libraries a backend declares."""
    owners = metadata.packages_distributions()
    found: set[str] = set()
    for library in kit.info.engine_libraries:
        own = {module for module, names in owners.items() if _key(library.distribution) in map(_key, names)}
        found |= {module for module in own if module.isidentifier()} or {library.distribution.replace("-", "_")}
    return found


def _distributions(modules: Iterable[str]) -> set[str]:
    owners = metadata.packages_distributions()
    return {_key(name) for module in modules for name in owners.get(module, [])[:1]}


def _required_by(names: Iterable[str]) -> set[str]:
    """Distributions and everything they require, extras left out."""
    waiting, found = [_key(name) for name in names], {"pip", "setuptools"}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in required:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(_key(requirement.name))
    return found


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
