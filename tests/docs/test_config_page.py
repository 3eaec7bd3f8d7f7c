# SPDX-License-Identifier: Apache-2.0
"""What docs/config.md says of sources and models is so; its tables are generated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmi.cli.check import check
from lmi.cli.config import config
from lmi.cli.serve import serve
from lmi.config.server import CONFIG_FILES, ServerOptions
from lmi.effective import effective
from lmi.plugins import Plugins
from tests.core.model_folders import CONFIG, write_json, write_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")


def test_every_installed_backend_of_this_repository_has_its_table() -> None:
    packages = {path.parent.name.replace("_", "-") for path in ROOT.glob("plugins/*/pyproject.toml")}
    ours = {record.name for record in Plugins.discover({}).records if record.distribution in packages}
    assert "vllm" in ours
    assert set(re.findall(r"<!-- generated: options:(\S+) -->", PAGE)) == ours


def test_every_flag_of_the_page_exists() -> None:
    flags = set(re.findall(r"`(--?[a-z][a-z-]*)[ `]", PAGE)) | set(re.findall(r"lmi \w+ DIR (--[a-z]+)", PAGE))
    known = {flag for command in (config, check, serve) for each in command.params for flag in each.opts}
    assert {"--devices", "--json", "-m", "-s", "-f"} <= flags
    assert flags - known == set()


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    (tmp_path / "serving.properties").write_text("option.rolling_batch=echo\n")
    commands = re.findall(r"^\$ lmi (\w+) DIR([^#\n]*)", PAGE, re.MULTILINE)
    assert [name for name, _ in commands] == ["config", "config", "check"]
    for name, flags in commands:
        command = {"config": config, "check": check}[name]
        done = CliRunner().invoke(command, [str(tmp_path), *flags.split()], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def test_the_places_of_config_properties_are_those_of_the_page() -> None:
    for place in CONFIG_FILES:
        assert place.replace("${MODEL_SERVER_HOME}", "$MODEL_SERVER_HOME") in PAGE


@pytest.mark.parametrize("key", ServerOptions.model_fields)
def test_every_key_of_the_server_is_on_the_page(key: str) -> None:
    assert f"| `{key}` |" in PAGE


def test_the_default_degree_is_the_largest_divisor_that_goes_as_the_page_says(tmp_path: Path) -> None:
    said = re.search(r"(\d+) of (\d+)\s+GPUs for a\s+model with (\d+)\s+attention heads", PAGE)
    assert said is not None
    folder = write_model(tmp_path)
    shape = {"num_attention_heads": int(said[3]), "num_key_value_heads": int(said[3]), "hidden_size": 768}
    write_json(folder / "config.json", {**CONFIG, **shape})
    found = effective(
        str(folder),
        flags={"rolling_batch": "vllm"},
        environ={},
        plugins=Plugins.discover({}),
        devices=f"cuda:{said[2]}",
    )
    assert found.options["option.tensor_parallel_degree"].value == said[1]


def test_the_long_tables_come_last() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert titles[-1] == "Options of each backend"
