# SPDX-License-Identifier: Apache-2.0
"""What a plugin finds wrong with a model, as users are told."""

import pytest

from lmi.api import (
    ArtifactError,
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    ModelArtifacts,
    Problem,
    Target,
    hookimpl,
    option,
)
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


@pytest.mark.parametrize(
    ("auto_map", "files", "trusts", "is_refused"),
    [
        pytest.param({"AutoTokenizer": ["tok.T", None]}, {"tokenizer.model": 9}, False, True, id="code alone"),
        pytest.param({"AutoTokenizer": ["tok.T", None]}, {"tokenizer.model": 9}, True, False, id="it may run"),
        pytest.param({"AutoTokenizer": [None, "tok.F"]}, {"tokenizer.json": 9}, False, False, id="not needed"),
        pytest.param({"AutoProcessor": "p.P"}, {"tokenizer.model": 9}, False, False, id="code of another part"),
    ],
)
def test_a_tokenizer_that_is_code_needs_permission_to_run(monkeypatch, auto_map, files, trusts, is_refused):
    plugins = Plugins([], {})
    plugins.register(object(), "car")
    monkeypatch.setattr(plugins, "hooks", lambda name: plugins.extension_hooks)
    artifacts = ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, files=files,
        documents={"tokenizer_config.json": {"auto_map": auto_map}},
    )  # fmt: skip
    settings = read_settings(model_folder=None, environ={}, flags={})
    choice = Choice(BackendInfo(name="car", summary="", artifact_formats=("pretrained",)), "")
    config = Config(trust_remote_code=trusts)
    if not is_refused:
        assert found_problems(plugins, choice, artifacts, config, Target(), settings) == []
        return
    with pytest.raises(ArtifactError) as caught:
        found_problems(plugins, choice, artifacts, config, Target(), settings)
    (problem,) = caught.value.problems
    assert (problem.code, "tok.T" in problem.message) == ("model.remote-code", True)
