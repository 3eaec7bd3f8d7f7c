# SPDX-License-Identifier: Apache-2.0
"""P: a plugin can be installed, listed and described on a machine that has neither its engine nor a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from importlib import metadata

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

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
        modules = isolated.ask(
            isolated.modules_after_listing, doing="Listing", timeout_s=kit.case.load_s, backend=kit.info.name
        )
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
        limit_s = _LONGEST_DESCRIPTIONS_S * TIME_SCALE
        found = isolated.ask(
            isolated.description,
            doing="Describing",
            timeout_s=kit.case.load_s,
            backend=kit.info.name,
            limit_s=limit_s,
        )
        assert not found["imported"], f"describing imports {', '.join(found['imported'][:5])}"
        assert not found["started"], f"describing starts processes: {', '.join(found['started'][:3])}"
        assert found["is_equal"], "two descriptions differ"
        assert found["n"] == isolated.N_DESCRIPTIONS and found["wall_s"] < limit_s, (
            f"{found['n']} descriptions took {found['wall_s']:.1f} s; {isolated.N_DESCRIPTIONS} may take {limit_s:g} s"
        )

    @rule("P4", "without its engine library, loading says how to install it")
    def test_p4_engine_absent(self, kit: Kit) -> None:
        plan = kit.plan()
        absent = sorted(engine_modules(kit))
        found = isolated.ask(
            isolated.load_without,
            doing="Loading",
            timeout_s=kit.case.load_s,
            backend=kit.info.name,
            artifacts=msgspec.to_builtins(plan.artifacts),
            options=plan.config.model_dump(mode="json"),
            absent=absent,
        )
        if absent:
            text = f"without {', '.join(absent)}, loading ended with {found['error']}: {found['message']}"
            assert found["error"], f"it loads without {', '.join(absent)}, which it declares as engine libraries"
            assert "install" in found["hint"], f"{text}; nothing tells how to install them"
            return
        assert not found["error"], f"it could not be loaded: {found['error']}: {found['message']}"
        assert not found["closing"], f"it was loaded, and then could not be closed: {found['closing']}"
        undeclared = undeclared_distributions(found["modules"], kit.record.distribution)
        assert not undeclared, f"loading uses {', '.join(undeclared)}: declare them as engine_libraries"


def engine_modules(kit: Kit) -> set[str]:
    """Top-level modules of the engine libraries a backend declares."""
    owners = metadata.packages_distributions()
    found: set[str] = set()
    for library in kit.info.engine_libraries:
        own = {
            module
            for module, names in owners.items()
            if canonicalize_name(library.distribution) in map(canonicalize_name, names)
        }
        found |= {module for module in own if module.isidentifier()} or {library.distribution.replace("-", "_")}
    return found


def undeclared_distributions(modules: Iterable[str], distribution: str) -> list[str]:
    """Owners of modules that a plugin uses and neither it nor the core requires.

    Args:
        modules: top-level names.
        distribution: the plugin's.
    Returns:
        One entry a module, sorted, each once; ``a or b`` where several distributions fill one namespace.
    """
    owners, required = metadata.packages_distributions(), _required_by("lmi-core", distribution)
    found = [sorted({canonicalize_name(name) for name in owners.get(module, [])}) for module in modules]
    return sorted({" or ".join(names) for names in found if names and required.isdisjoint(names)})


def _required_by(*names: str) -> set[str]:
    """Distributions and everything they require, with the extras that requirements ask for."""
    waiting, seen = [(canonicalize_name(name), "") for name in names], {("pip", ""), ("setuptools", "")}
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in _requirements(name):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in seen}


def _requirements(name: str) -> Iterator[Requirement]:
    """What a distribution says that it requires; nothing where it is not installed."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for text in texts:
        with contextlib.suppress(InvalidRequirement):
            yield Requirement(text)
