# SPDX-License-Identifier: Apache-2.0
"""Every project of the workspace gives a wheel that holds what it must and asks for what it may."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import lmi
from lmi.api import BackendInfo
from tests.packages.conftest import PROJECTS, ROOT
from tests.packages.wheels import Wheel

LICENCE = (ROOT / "LICENSE").read_bytes()
PLACEHOLDERS = {"tensorrt-llm", "transformers-neuronx", "neuronx-cc", "torch-neuronx"}
"""Names that pip finds on its index but that cannot be had there; a README tells where the real ones are."""

NAMES = [("lmi_core" if project.name == "core" else project.name) for project in PROJECTS]
PLUGINS = [name for name in NAMES if name != "lmi_core"]


@pytest.fixture(params=NAMES)
def wheel(request: pytest.FixtureRequest, wheels: Path) -> Wheel:
    (path,) = wheels.glob(f"{request.param}-*.whl")
    return Wheel(path)


@pytest.fixture(params=PLUGINS)
def plugin(request: pytest.FixtureRequest, wheels: Path) -> Wheel:
    (path,) = wheels.glob(f"{request.param}-*.whl")
    return Wheel(path)


def described(plugin: Wheel) -> list[BackendInfo]:
    modules = plugin.entry_points["lmi.backends"].values()
    return [importlib.import_module(module).lmi_describe_backend() for module in modules]


def sources(wheel: Wheel) -> Path:
    """The folder that holds the packages of a wheel in the workspace."""
    return ROOT / ("core" if wheel.name == "lmi-core" else f"plugins/{wheel.name.replace('-', '_')}") / "src"


def test_a_wheel_runs_on_every_platform(wheel: Wheel) -> None:
    assert wheel.path.name.endswith("-py3-none-any.whl")


def test_a_wheel_holds_every_file_of_its_packages_and_nothing_else(wheel: Wheel) -> None:
    found = {path.relative_to(sources(wheel)).as_posix() for path in sources(wheel).rglob("*") if path.is_file()}
    there = {name for name in found if "__pycache__" not in name}
    assert {name for name in wheel.files if not name.startswith(wheel.info_folder)} == there


def test_every_package_of_a_wheel_is_marked_as_typed(wheel: Wheel) -> None:
    assert [name for name in wheel.packages if f"{name}/py.typed" not in wheel.files] == []


def test_a_wheel_holds_no_tests_and_nothing_compiled(wheel: Wheel) -> None:
    unwanted = ("/test_", "/conftest.py", ".pyc", "/tests/", ".orig", ".rej")
    found = [name for name in wheel.files if any(word in f"/{name}" for word in unwanted)]
    # What `lmi new` writes into a new project has a test.
    assert [name for name in found if not name.startswith("lmi/scaffold/")] == []


def test_a_wheel_brings_the_licence_that_it_names(wheel: Wheel) -> None:
    assert wheel.metadata["License-Expression"] == "Apache-2.0"
    assert wheel.metadata.get_all("License-File") == ["LICENSE"]
    assert wheel.files[f"{wheel.info_folder}/licenses/LICENSE"] == LICENCE


def test_a_wheel_says_what_it_is_for_and_which_python_it_needs(wheel: Wheel) -> None:
    assert wheel.metadata["Summary"]
    assert wheel.metadata["Requires-Python"] == ">=3.10"
    assert str(wheel.metadata.get_payload()).lstrip().startswith(f"# {wheel.name}\n"), "its README is not in it"


def test_the_core_brings_the_command_and_no_plugin(wheels: Path) -> None:
    core = Wheel(next(wheels.glob("lmi_core-*.whl")))
    assert core.metadata["Version"] == lmi.__version__
    assert core.entry_points["console_scripts"] == {"lmi": "lmi.cli.main:main"}
    assert [group for group in core.entry_points if group.startswith("lmi.")] == []


def test_a_plugin_is_found_under_the_name_it_calls_itself(plugin: Wheel) -> None:
    assert sorted(plugin.entry_points["lmi.backends"]) == sorted(info.name for info in described(plugin))


def test_a_plugin_asks_for_a_range_of_cores_that_holds_this_one(plugin: Wheel) -> None:
    wanted = plugin.requirements()["lmi-core"].specifier
    assert wanted.contains(lmi.__version__)
    assert not wanted.contains("999"), "a core that breaks the contract would be taken"


def test_a_plugin_is_installed_without_its_engine_unless_the_engine_is_asked_for(plugin: Wheel) -> None:
    engines = {library.distribution for info in described(plugin) for library in info.engine_libraries}
    assert engines & set(plugin.requirements()) == set()
    others = {name for name in plugin.requirements() if not name.startswith("lmi-")}
    assert others == set(), "a plugin without its engine needs nothing but LMI"


def test_the_engine_that_a_backend_describes_is_the_extra_it_offers(plugin: Wheel) -> None:
    told = {each.distribution: each.versions for info in described(plugin) for each in info.engine_libraries}
    offered = plugin.requirements("engine")
    expected = {name: SpecifierSet(versions) for name, versions in told.items() if name not in PLACEHOLDERS}
    # What the core needs to start ranks is no engine.
    found = {name: requirement.specifier for name, requirement in offered.items() if name != "lmi-core"}
    assert found == expected


def test_every_library_of_an_engine_has_a_tested_range(plugin: Wheel) -> None:
    told = {each.distribution: each.versions for info in described(plugin) for each in info.engine_libraries}
    assert [name for name, versions in told.items() if ">=" not in versions and "==" not in versions] == []


def test_a_wheel_asks_for_nothing_that_the_index_only_pretends_to_have(wheel: Wheel) -> None:
    extras = [None, *wheel.metadata.get_all("Provides-Extra", [])]
    asked = {name for extra in extras for name in wheel.requirements(extra)}
    assert asked & PLACEHOLDERS == set()


def test_the_command_that_a_backend_names_installs_its_plugin(plugin: Wheel) -> None:
    def needs(extra: str) -> dict[str, str]:
        return {name: str(requirement.specifier) for name, requirement in plugin.requirements(extra).items()}

    engine = needs("engine")
    extras = [each for each in plugin.metadata.get_all("Provides-Extra", []) if needs(each) == engine]
    wanted = [f"{plugin.name}[{each}]" for each in extras] if engine else [plugin.name]
    for info in described(plugin):
        assert "pip install" in info.install
        assert any(each in info.install for each in wanted)
