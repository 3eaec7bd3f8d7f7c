# SPDX-License-Identifier: Apache-2.0
"""What is installed decides what can be done: the core alone, and with each plugin that has no engine.

The libraries in these environments are those that lmi-core's own metadata asks for, so a library that it uses and does
not name is missing here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.core.model_folders import write_model
from tests.core.tokenizer_folders import byte_level
from tests.packages.conftest import BareEnvironment
from tests.packages.environments import Environment
from tests.packages.wheels import Wheel
from tests.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def alone(bare: BareEnvironment) -> Environment:
    return bare("lmi_core")


@pytest.fixture(scope="module")
def with_echo(bare: BareEnvironment) -> Environment:
    return bare("lmi_core", "lmi_echo")


@pytest.fixture(scope="module")
def with_hf(bare: BareEnvironment) -> Environment:
    return bare("lmi_core", "lmi_hf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that is right in all that is read before the weights."""
    folder = write_model(tmp_path_factory.mktemp("model"))
    byte_level().save(str(folder / "tokenizer.json"))
    return folder


def rows(environment: Environment, *arguments: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(environment.lmi("plugins", "--json", *arguments))
    return listed


def test_the_environments_hold_what_was_installed_and_nothing_else(with_hf: Environment) -> None:
    script = "import importlib.util as u; print([n for n in ('torch', 'lmi_echo', 'pytest') if u.find_spec(n)])"
    assert with_hf.runs(script) == "[]\n"
    assert Path(with_hf.runs("import lmi; print(lmi.__file__)")).is_relative_to(with_hf.site)


IMPORT_ALL = """
import importlib, json, pkgutil, sys
missing = set()
for module in pkgutil.walk_packages([SITE], onerror=lambda name: None):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missing.add(error.name.partition(".")[0])
print(json.dumps(sorted(missing)))
"""


def test_the_core_uses_no_library_that_it_does_not_name(alone: Environment, wheels: Path) -> None:
    core = Wheel(next(wheels.glob("lmi_core-*.whl")))
    extras = {name for extra in core.metadata.get_all("Provides-Extra", []) for name in core.requirements(extra)}
    missing = set(json.loads(alone.runs(IMPORT_ALL.replace("SITE", repr(str(alone.site))))))
    # A plugin brings torch; sampling for its stepper is the one module of the core that uses it.
    assert missing - extras == {"torch"}


def test_the_core_alone_lists_no_plugin_and_says_what_one_is(alone: Environment) -> None:
    assert alone.lmi("plugins") == "No plugins are installed. Backends are packages called lmi-<name>.\n"


def test_the_core_alone_says_at_a_start_what_to_install(alone: Environment, model: Path) -> None:
    said = alone.fails_to_serve(str(model))
    assert "plugin.none-installed: no backend is installed, so nothing can be served" in said
    assert "backends are packages called lmi-<name>" in said


def test_the_core_alone_names_the_package_of_the_backend_that_is_asked_for(alone: Environment, model: Path) -> None:
    said = alone.fails_to_serve(str(model), "-o", "rolling_batch=acme")
    assert "plugin.not-installed: rolling_batch=acme (command line -o rolling_batch)" in said
    assert "Installed: none.\n" in said
    assert "remedy:   Try: pip install lmi-acme\n" in said


def test_a_backend_that_needs_no_engine_serves_with_the_core_alone_beside_it(with_echo: Environment) -> None:
    with with_echo.serves("-o", "rolling_batch=echo") as server:
        assert server.generate("good day", max_new_tokens=4)["generated_text"] == "good"


def test_without_its_extra_the_contract_says_what_to_install(with_echo: Environment) -> None:
    assert "pip install 'lmi-core[testing]'" in with_echo.lmi("contract", "echo", exits=2)


def test_a_misspelt_option_is_named_without_an_engine(with_echo: Environment) -> None:
    said = with_echo.fails_to_serve("-o", "rolling_batch=echo", "-o", "stpe_delay_ms=3")
    assert "config.unknown-key" in said
    assert "Did you mean 'option.step_delay_ms'?" in said


def test_a_backend_without_its_engine_is_listed_and_described(with_hf: Environment) -> None:
    listed = [(row["name"], row["distribution"], row["state"]) for row in rows(with_hf)]
    assert listed == [("hf", "lmi-hf", "ready"), ("lmi-dist", "lmi-hf", "ready")]
    assert "accelerators:  cpu, cuda" in with_hf.lmi("plugins", "--check", "hf")


def test_a_configuration_is_checked_without_the_engine_and_every_mistake_is_named(
    with_hf: Environment, model: Path
) -> None:
    said = with_hf.fails_to_serve(str(model), "-o", "dtypo=fp16", "-o", "max_model_len=-3")
    assert "Did you mean 'option.dtype'?" in said
    assert "max_model_len" in said
    assert "engine.not-installed" not in said


def test_the_files_of_a_model_are_checked_without_the_engine(with_hf: Environment, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", n_shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "weights.shard-missing" in with_hf.fails_to_serve(str(folder))


def test_loading_without_the_engine_names_the_command_that_installs_it(with_hf: Environment, model: Path) -> None:
    said = with_hf.fails_to_serve(str(model))
    assert "engine.not-installed: hf needs torch" in said
    assert "pip install 'lmi-hf[engine]'" in said


@pytest.mark.long
def test_with_the_libraries_of_its_extra_a_backend_serves(wheels: Path, tmp_path: Path) -> None:
    ours = [next(wheels.glob(f"{name}-*.whl")) for name in ("lmi_core", "lmi_hf")]
    environment = Environment.bare(tmp_path / "venv", ours, "engine")
    model_folder = write_tiny_llama(tmp_path / "model")
    with environment.serves(str(model_folder), "-o", "dtype=fp32", "-o", "n_threads=1") as server:
        answer = server.generate("good day", max_new_tokens=4, ignore_eos_token=True, details=True)
        assert answer["details"]["generated_tokens"] == 4
