# SPDX-License-Identifier: Apache-2.0
"""The frame of the command line: what it imports, what it prints, how it exits."""

import json
import os
import re
import subprocess
import sys

import click
import pytest

from lmi import __version__
from lmi.api import ArtifactError, ConfigError, EngineLoadError, PluginError
from lmi.cli import main as cli_main
from lmi.plugins import discovery
from tests.core.distributions import Distributions
from tests.limits import limit_s


@pytest.fixture
def installed(tmp_path, monkeypatch):
    distributions = Distributions(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", distributions.entry_points)
    monkeypatch.setattr(cli_main, "entry_points", distributions.entry_points)
    monkeypatch.setattr(cli_main, "cli", cli_main.LazyGroup("lmi", help="Serve."))
    yield distributions
    distributions.forget()


@pytest.fixture
def run(installed, capsys):
    def _run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli_main.main(list(arguments))
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return _run


def python(*arguments, **environ):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=limit_s(60),
        check=False,
    )


HEAVY = ("fastapi", "pydantic", "msgspec", "torch", "transformers", "uvicorn", "huggingface_hub", "numpy", "lmi.api")


def test_help_names_the_commands_and_imports_nothing_heavy():
    code = f"""
import sys
from lmi.cli import main
try:
    main.main(["--help"])
except SystemExit as end:
    assert not end.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = python("-c", code, LMI_EXTENSIONS="")
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]", done.stderr
    assert any(line.split()[:1] == ["serve"] for line in lines)
    assert any(line.split()[:1] == ["plugins"] for line in lines)


def test_the_module_runs_as_the_command_does():
    assert python("-m", "lmi", "--version").stdout == f"lmi, version {__version__}\n"


def test_planning_a_model_imports_neither_torch_nor_transformers(tmp_path):
    code = """
import sys
from lmi.api import LmiError
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
try:
    plan(ModelEntry(url=sys.argv[1]), flags={}, environ={}, plugins=Plugins.discover())
except LmiError as error:
    print(error.code)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    done = python("-c", code, str(tmp_path))
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_installed_distribution_is_found_on_the_path(tmp_path):
    Distributions(tmp_path).backend("acme", version="2.1")
    done = python("-m", "lmi", "plugins", "--check", "acme", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["distribution"], row["version"], row["state"]) == ("acme", "lmi-acme", "2.1", "ready")


def test_a_mistyped_command_gets_the_nearest_one(run):
    code, _, err = run("sreve")
    assert code == 2
    assert "There is no command 'sreve'. Did you mean 'serve'?" in err


def test_every_listed_command_can_be_imported():
    group = cli_main.LazyGroup("lmi")
    for name in cli_main.COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command.name == name
        assert command.get_short_help_str(limit=200) == cli_main.COMMANDS[name][1]


COMMAND = """
import click

@hookimpl
def lmi_register_commands(cli):
    @cli.command()
    def greet():
        '''Say good day.'''
        click.echo("good day")
"""


def test_an_extension_adds_a_command(run, installed):
    installed.extension("greeter", COMMAND)
    assert run("greet") == (0, "good day\n", "")
    assert "Say good day." in run("--help")[1]


def test_an_extension_that_cannot_add_its_command_leaves_the_others(run, installed):
    installed.extension("greeter", COMMAND)
    installed.extension("broken", "@hookimpl\ndef lmi_register_commands(cli):\n    cli.no_such_attribute\n")
    code, out, err = run("--help")
    assert (code, "Say good day." in out) == (0, True)
    assert err.startswith("plugin.hook-failed: an extension could not add its commands: AttributeError: ")


def test_a_known_command_does_not_import_extensions_for_its_name(installed, run):
    module = installed.extension("greeter", COMMAND)
    group = cli_main.LazyGroup("lmi")
    assert group.get_command(click.Context(group), "plugins") is not None
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("config.invalid", "1 problem", []), 2),
        (ArtifactError("artifacts.invalid", "1 problem", []), 2),
        (PluginError("plugin.not-installed", "no such backend"), 2),
        (EngineLoadError("engine.load-failed", "no driver"), 1),
    ],
)
def test_an_error_is_printed_as_its_text_and_sets_the_exit_code(run, error, code):
    @cli_main.cli.command("fail")
    def fail():
        raise error

    assert run("fail") == (code, "", f"{error}\n")


def test_an_error_that_is_not_ours_keeps_its_traceback(installed):
    @cli_main.cli.command("fail")
    def fail():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        cli_main.main(["fail"])


def test_plugins_are_listed_with_state_and_reason(run, installed):
    installed.backend("acme", version="2.1")
    installed.install("lmi-bad", "lmi.backends", "bad", "import no_such_library")
    installed.extension("guard", "")
    code, out, _ = run("plugins")
    rows = [line.split(maxsplit=5) for line in out.splitlines()]
    assert code == 0
    assert rows == [
        ["name", "kind", "distribution", "version", "state", "reason"],
        ["acme", "backend", "lmi-acme", "2.1", "ready", "a fake"],
        ["bad", "backend", "lmi-bad", "1.0", "broken", "cannot be imported: No module named 'no_such_library'"],
        ["guard", "extension", "lmi-guard", "1.0", "ready"],
    ]


def test_checking_a_broken_plugin_shows_its_traceback_and_fails(run, installed):
    installed.install("lmi-bad", "lmi.backends", "bad", "import no_such_library")
    code, out, _ = run("plugins", "--check", "bad")
    assert code == 1
    assert "Traceback (most recent call last)" in out
    assert "import no_such_library" in out


def test_checking_a_ready_backend_shows_what_selects_it(run, installed):
    installed.backend("acme", extra="rolling_batch=('roll',)")
    code, out, _ = run("plugins", "--check", "acme")
    assert code == 0
    assert "rolling_batch: acme, roll" in out
    assert "engine:        needs none" in out


def test_checking_a_backend_says_which_engine_libraries_are_there(run, installed):
    libraries = "EngineLibrary(distribution='pluggy'), EngineLibrary(distribution='no-such-engine')"
    installed.backend("acme", extra=f"engine_libraries=({libraries})")
    assert re.search(
        r"engine:        pluggy \d\S*, no-such-engine \(not installed\)", run("plugins", "--check", "acme")[1]
    )


def test_checking_an_unknown_plugin_names_the_nearest(run, installed):
    installed.backend("acme")
    code, _, err = run("plugins", "--check", "acne")
    assert (code, err) == (1, "plugin.not-installed: there is no plugin 'acne'. Did you mean 'acme'?\n")


def test_the_options_of_a_backend_are_printed_as_a_table(run, installed):
    installed.backend("acme")
    code, out, _ = run("plugins", "--options", "acme")
    assert code == 0
    assert "| `option.dtype`, `data_type` | | `auto` | Type of the weights. One of `auto`, `fp16`, `bf16`. |" in out
    assert "| `option.max_model_len` | tokens | unset | Longest sequence. |" in out
    code, _, err = run("plugins", "--options", "acne")
    assert (code, err) == (1, "plugin.not-installed: there is no backend 'acne'. Did you mean 'acme'?\n")


def test_options_of_a_backend_that_is_broken_say_why(run, installed):
    installed.install("lmi-bad", "lmi.backends", "bad", "import no_such_library")
    code, _, err = run("plugins", "--options", "bad")
    assert code == 2
    assert "cannot be imported: No module named 'no_such_library'" in err


def test_with_no_plugin_the_list_says_so(run):
    assert "No plugins are installed." in run("plugins")[1]
