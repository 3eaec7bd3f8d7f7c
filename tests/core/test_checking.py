# SPDX-License-Identifier: Apache-2.0
"""What a plugin finds wrong with a model, as users are told."""

import pytest

from lmi.api import ArtifactError, BackendConfig, BackendInfo, ModelArtifacts, Problem, Target, hookimpl, option
from lmi.checking import found_problems
from lmi.config import read_settings
from lmi.plugins import Choice, Plugins


class Config(BackendConfig):
    wheels: int = option(4, description="Wheels.", aliases=("n_wheels",))
    doors: int = option(2, description="Doors.")


class Backend:
    @hookimpl
    def lmi_validate_artifacts(self, artifacts, config, target):
        yield Problem(code="artifacts.invalid", message="wheels is 3", fields=("wheels", "doors", "n_nothing"))
        yield Problem(code="artifacts.invalid", message="said", source="elsewhere", fields=("wheels",))


def test_a_problem_says_where_the_options_it_is_about_were_set(monkeypatch):
    plugins = Plugins([], {})
    plugins.register(Backend(), "car")
    monkeypatch.setattr(plugins, "hooks", lambda name: plugins.extension_hooks)
    settings = read_settings(model_folder=None, environ={"OPTION_N_WHEELS": "3"}, flags={})
    choice = Choice(BackendInfo(name="car", summary="", needs_model=False), "")
    with pytest.raises(ArtifactError) as caught:
        found_problems(plugins, choice, ModelArtifacts(), Config(wheels=3), Target(), settings)
    assert [problem.source for problem in caught.value.problems] == ["OPTION_N_WHEELS", "elsewhere"]
