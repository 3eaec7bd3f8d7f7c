# SPDX-License-Identifier: Apache-2.0
"""Faulty plugins, installed by pip beside good ones: each is told apart, named, and harms no other.

All of them are in one environment, so that every test also shows that none of the others stood in its way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.distributions import BACKEND
from tests.packages.environments import Environment
from tests.packages.wheels import write_wheel

RUN = 'import pathlib, os\npathlib.Path(os.environ["HOME"], "imported-{name}").touch()\n'
"""A first line that leaves a trace of an import."""

EXTENSION = RUN + "from lmi.api import hookimpl\n\n@hookimpl\ndef {hook}:\n    {body}\n"

FIT = ("lmi-core>=0.1,<0.2",)


def backend(name: str, more: str = "") -> str:
    return RUN.format(name=name) + BACKEND.replace("NAME", name).replace("EXTRA", "needs_model=False") + more


def extension(name: str, hook: str, body: str) -> str:
    return EXTENSION.format(name=name, hook=hook, body=body)


def write_zoo(folder: Path) -> list[Path]:
    """One wheel of every kind, good and bad."""

    def made(distribution: str, name: str, code: str, **options: Any) -> Path:
        return write_wheel(folder, distribution, code, name=name, **{"requires": FIT, **options})

    def hooked(name: str, signature: str) -> Path:
        return made(f"lmi-{name}", name, backend(name, f"\n\n@hookimpl\ndef {signature}:\n    return None\n"))

    extensions: dict[str, Any] = {"group": "lmi.extensions"}
    return [
        made("lmi-good", "good", backend("good")),
        made("lmi-twin", "twin", backend("twin")),
        made("lmi-twin-fork", "twin", backend("twin"), version="3.0"),
        made("lmi-raises", "raises", "def start():\n    raise RuntimeError('no driver 535')\n\n\nstart()\n"),
        made("lmi-exits", "exits", "raise SystemExit('licence expired')"),
        made("lmi-needy", "needy", "import a_library_that_nobody_has"),
        hooked("misspelt", "lmi_validate_artefacts(config)"),
        hooked("strange", "lmi_validate_artifacts(artefacts, config)"),
        hooked("defaulting", "lmi_validate_artifacts(artifacts, config=None)"),
        made("lmi-newer", "newer", backend("newer"), version="2.4", requires=["lmi-core<0.10,>=0.9"]),
        made("lmi-audit", "audit", extension("audit", "lmi_filter_text(text)", "return text.upper()"), **extensions),
        made("lmi-spy", "spy", extension("spy", "lmi_filter_text(text)", "return 'spied'"), **extensions),
    ]


@pytest.fixture(scope="module")
def zoo(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("zoo")
    ours = [next(wheels.glob(f"{name}-*.whl")) for name in ("lmi_core", "lmi_echo")]
    return Environment.bare(folder / "venv", [*ours, *write_zoo(folder)])


Listed = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def listed(zoo: Environment) -> Listed:
    """What the list says of all plugins of one name."""
    rows = json.loads(zoo.lmi("plugins", "--json"))
    return lambda name: [row for row in rows if row["name"] == name]


def only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    (row,) = rows
    return row


@pytest.fixture
def imported(zoo: Environment) -> Callable[[str], bool]:
    """Whether a plugin's module was run in any process since the test began."""
    for trace in zoo.folder.glob("imported-*"):
        trace.unlink()
    return lambda name: (zoo.folder / f"imported-{name}").exists()


# ------------------------------------------------------------------------------------------------------------ the list


def test_good_plugins_are_ready_beside_every_bad_one(listed: Listed) -> None:
    for name in ("good", "echo", "audit", "spy"):
        assert only(listed(name))["state"] == "ready", name


def test_two_distributions_with_one_backend_name_are_both_refused_and_both_named(listed: Listed) -> None:
    rows = listed("twin")
    assert [(row["distribution"], row["version"], row["state"], row["code"]) for row in rows] == [
        ("lmi-twin", "1.0", "duplicate", "plugin.duplicate"),
        ("lmi-twin-fork", "3.0", "duplicate", "plugin.duplicate"),
    ]
    reason = "backend 'twin' is offered by lmi-twin 1.0 and lmi-twin-fork 3.0. Uninstall one of them."
    assert {row["reason"] for row in rows} == {reason}


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("raises", "plugin.import-failed", "cannot be imported: RuntimeError: no driver 535"),
        ("exits", "plugin.import-failed", "cannot be imported: SystemExit: licence expired"),
        ("needy", "plugin.import-failed", "cannot be imported: No module named 'a_library_that_nobody_has'"),
        ("misspelt", "plugin.bad-hooks", "no hook 'lmi_validate_artefacts' (lmi_misspelt:"),
        ("misspelt", "plugin.bad-hooks", "Did you mean 'lmi_validate_artifacts'?"),
        ("strange", "plugin.bad-hooks", "has no parameter 'artefacts'. Did you mean 'artifacts'?"),
        ("defaulting", "plugin.bad-hooks", "gives a default to 'config', which then gets no value"),
        ("newer", "plugin.incompatible", "was made for lmi-core>=0.9,<0.10, and this is lmi-core 0.1.0"),
        ("newer", "plugin.incompatible", "pip install --upgrade lmi-core==0.1.0 lmi-newer"),
    ],
)
def test_a_broken_plugin_is_listed_with_what_is_wrong(listed: Listed, name: str, code: str, reason: str) -> None:
    row = only(listed(name))
    assert (row["state"], row["code"]) == ("broken", code)
    assert reason in row["reason"]


def test_the_table_has_name_kind_distribution_version_state_and_reason(zoo: Environment) -> None:
    rows = [line.split(maxsplit=5) for line in zoo.lmi("plugins").splitlines()]
    assert rows[0] == ["name", "kind", "distribution", "version", "state", "reason"]
    assert ["good", "backend", "lmi-good", "1.0", "ready", "a fake"] in rows
    assert ["audit", "extension", "lmi-audit", "1.0", "ready"] in rows
    row = next(row for row in rows if row[0] == "raises")
    assert row == [
        "raises",
        "backend",
        "lmi-raises",
        "1.0",
        "broken",
        "cannot be imported: RuntimeError: no driver 535",
    ]


# ----------------------------------------------------------------------------------------------------------- one alone


def test_checking_a_broken_plugin_shows_the_line_that_failed(zoo: Environment) -> None:
    said = zoo.lmi("plugins", "--check", "raises", exits=1)
    assert "Traceback (most recent call last)" in said
    assert 'lmi_raises.py", line 2, in start' in said
    assert said.rstrip().endswith("RuntimeError: no driver 535")


def test_checking_a_plugin_that_was_not_imported_tells_what_to_do(zoo: Environment) -> None:
    said = zoo.lmi("plugins", "--check", "newer", exits=1)
    assert "Let pip find a version that fits: pip install --upgrade lmi-core==0.1.0 lmi-newer" in said
    assert "Traceback" not in said


def test_checking_a_good_plugin_succeeds(zoo: Environment) -> None:
    assert "rolling_batch: good" in zoo.lmi("plugins", "--check", "good")


def test_the_command_for_an_incompatible_plugin_brings_a_version_that_fits(wheels: Path, tmp_path: Path) -> None:
    old, new = (
        write_wheel(tmp_path, "lmi-acme", backend("acme"), name="acme", version=version, requires=[f"lmi-core{cores}"])
        for version, cores in (("0.9", ">=0.1,<0.2"), ("1.0", ">=0.9"))
    )
    environment = Environment.bare(tmp_path / "venv", [next(wheels.glob("lmi_core-*.whl")), new])
    said = environment.lmi("plugins", "--check", "acme", exits=1)
    command = re.search(r"pip install (--upgrade .+)\.$", said, re.MULTILINE)
    assert command is not None, said
    environment.pip("--no-index", "--find-links", str(old.parent), *command[1].split())
    (row,) = json.loads(environment.lmi("plugins", "--json", "--check", "acme"))
    assert (row["version"], row["state"]) == ("0.9", "ready")


# ------------------------------------------------------------------------------------------------ what is not imported


def test_duplicates_and_incompatible_plugins_are_not_imported(
    zoo: Environment, imported: Callable[[str], bool]
) -> None:
    zoo.lmi("plugins")
    assert [name for name in ("good", "twin", "newer") if imported(name)] == ["good"]


def test_a_blocked_extension_is_not_imported_by_the_list(zoo: Environment, imported: Callable[[str], bool]) -> None:
    row = only(json.loads(zoo.lmi("plugins", "--json", "--check", "spy", LMI_EXTENSIONS="audit", exits=1)))
    assert (row["state"], row["reason"]) == ("blocked", "not named in LMI_EXTENSIONS")
    assert (imported("audit"), imported("spy")) == (True, False)


def test_a_blocked_extension_is_imported_neither_by_the_server_nor_by_its_worker(
    zoo: Environment, imported: Callable[[str], bool]
) -> None:
    with zoo.serves("-o", "rolling_batch=echo", LMI_EXTENSIONS="audit") as server:
        assert server.generate("abc", max_new_tokens=3)["generated_text"] == "ABC"
    assert (imported("audit"), imported("spy")) == (True, False)


# ------------------------------------------------------------------------------------------------------------- a start


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("twin", "plugin.duplicate: backend 'twin' is offered by lmi-twin 1.0 and lmi-twin-fork 3.0"),
        ("raises", "plugin.import-failed: lmi-raises 1.0 is installed but cannot be imported: RuntimeError: no driver"),
        ("misspelt", "plugin.bad-hooks: lmi-misspelt 1.0 is installed but its hooks do not fit: there is no hook"),
        ("newer", "plugin.incompatible: lmi-newer 2.4 is installed but was made for lmi-core>=0.9,<0.10, and this is"),
    ],
)
def test_a_start_with_an_unusable_backend_says_why(zoo: Environment, name: str, cause: str) -> None:
    said = zoo.fails_to_serve("-o", f"rolling_batch={name}", LMI_EXTENSIONS="")
    assert cause in said


def test_hook_calls_of_server_and_worker_are_traced_by_name_and_without_prompts(zoo: Environment) -> None:
    with zoo.serves("-o", "rolling_batch=echo", LMI_EXTENSIONS="audit", LMI_TRACE_HOOKS="1") as server:
        server.generate("secret", max_new_tokens=3)
        server.terminate()
        server.wait_for_end()
    expected = {
        "hook lmi_describe_backend: backend:echo",
        "hook lmi_validate_artifacts: nobody",
        "hook lmi_filter_text: extension:audit",
        "[model/0] hook lmi_load_engine: backend:echo",
        "[model/0] hook lmi_generate_batch: lmi.workers.generate",
    }
    # The worker's lines come through the server's log, with its time in front.
    traced = {line[line.find("[") if "INFO [" in line else 0 :] for line in server.lines}
    assert expected - traced == set()
    assert "secret" not in server.output.lower()
