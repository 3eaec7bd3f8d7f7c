# SPDX-License-Identifier: Apache-2.0
"""A plugin's own metadata says for which versions of the core it was made; another one is not imported."""

import sys

import pytest

import lmi
from lmi.api import PluginError
from lmi.config import Settings
from lmi.plugins import Plugins, State, discovery
from lmi.target import Target
from tests.core.distributions import Distributions


@pytest.fixture
def installed(tmp_path, monkeypatch):
    distributions = Distributions(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", distributions.entry_points)
    monkeypatch.setattr(lmi, "__version__", "0.1.3")
    yield distributions
    distributions.forget()


def discovered(installed, *requirements):
    """The record of a backend with these requirements, and the name of its module."""
    module = installed.backend("acme", version="2.1")
    with (installed.folder / "lmi_acme-2.1.dist-info" / "METADATA").open("a") as file:
        file.writelines(f"Requires-Dist: {each}\n" for each in requirements)
    (record,) = Plugins.discover({}).records
    return record, module


@pytest.mark.parametrize(
    "requirements",
    [
        [],
        ["lmi-core"],
        ["lmi-core>=0.1,<0.2"],
        ["lmi-core[testing] ~=0.1"],
        ["LMI.Core (>=0.1)"],
        ["lmi-core==9; extra == 'nightly'"],
        ["lmi-core==9; python_version < '3'"],
        ["lmi-core-extras==9", "numpy>=99"],
        ["lmi-core is not a requirement that anybody can read"],
    ],
)
def test_a_plugin_for_this_core_or_for_no_certain_one_is_loaded(installed, requirements):
    record, _ = discovered(installed, *requirements)
    assert (record.state, record.reason) == (State.READY, "")


@pytest.mark.parametrize(
    ("requirements", "wanted"),
    [
        (["lmi-core<0.3,>=0.2"], ">=0.2,<0.3"),
        (["lmi_core==0.1.2"], "==0.1.2"),
        (["Lmi-Core[testing]>=0.1.4; python_version >= '3'"], ">=0.1.4"),
        (["lmi-core>=0.1", "lmi-core<0.1.3"], ">=0.1,<0.1.3"),
    ],
)
def test_a_plugin_for_another_core_is_broken_and_not_imported(installed, requirements, wanted):
    record, module = discovered(installed, *requirements)
    assert (record.state, record.code) == (State.BROKEN, "plugin.incompatible")
    assert record.reason == f"was made for lmi-core{wanted}, and this is lmi-core 0.1.3"
    assert module not in sys.modules


@pytest.mark.parametrize(("version", "state"), [("0.2.0.dev1", State.BROKEN), ("0.1.4.dev1", State.READY)])
def test_a_development_version_of_the_core_counts_as_what_it_is(installed, monkeypatch, version, state):
    monkeypatch.setattr(lmi, "__version__", version)
    assert discovered(installed, "lmi-core>=0.1,<0.2")[0].state is state


def test_wanting_an_incompatible_backend_says_both_versions_and_the_command_that_helps(installed):
    discovered(installed, "lmi-core>=0.2,<0.3")
    with pytest.raises(PluginError) as caught:
        Plugins.discover({}).hooks("acme")
    assert str(caught.value) == (
        "plugin.incompatible: lmi-acme 2.1 is installed but was made for lmi-core>=0.2,<0.3, and this is "
        "lmi-core 0.1.3. The other plugins are unaffected. "
        "Let pip find a version that fits: pip install --upgrade lmi-core==0.1.3 lmi-acme."
    )


def test_an_automatic_choice_names_the_incompatible_backend_it_could_not_take(installed):
    discovered(installed, "lmi-core>=0.2,<0.3")
    with pytest.raises(PluginError, match=r"plugin.none-usable: .*acme \(lmi-acme 2.1\): was made for lmi-core>=0.2"):
        Plugins.discover({}).choose(Settings({}), None, Target())
