# SPDX-License-Identifier: Apache-2.0
"""Arguments of vLLM's engine that LMI does not offer: each is refused, or warned about, with the reason."""

import contextlib

import pytest
from pydantic import ValidationError

from lmi.api import ArtifactError, ConfigError
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.testing import write_tiny
from lmi.testing.config_rules import sample_values
from lmi_vllm import lmi_describe_backend
from lmi_vllm.config import VLLMConfig
from lmi_vllm.refused import IDLE_ON_CPU, NO_EFFECT, NOT_ON_CPU, REFUSED, REFUSED_VALUES


def parsed(**settings):
    flags = {key: as_text(value) for key, value in settings.items()}
    found = read_settings(model_folder=None, environ={}, flags=flags)
    return parse(found, lmi_describe_backend(), VLLMConfig, {})


def problems_of(**settings):
    with pytest.raises(ConfigError) as caught:
        parsed(**settings)
    return caught.value.problems


def values_of(name):
    """Values that an option takes, but for its default."""
    info = VLLMConfig.model_fields[name]
    samples = [*sample_values(info, info.default), 2, True, "x", ["x"], {"x": 1}]
    for value in samples:
        with contextlib.suppress(ValidationError):
            if getattr(VLLMConfig.model_validate({name: value}), name) != info.default:
                yield value


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_lmi_decides_is_refused_with_the_reason(name):
    value = next(values_of(name))
    (problem,) = [each for each in problems_of(**{name: value}) if name in each.message]
    assert (problem.code, problem.source) == ("config.conflict", f"command line -o {name}")
    assert REFUSED[name][0] in problem.message
    assert problem.hint


@pytest.mark.parametrize("name", NO_EFFECT)
def test_an_argument_that_changes_nothing_is_warned_about(name):
    (warning,) = parsed(**{name: next(values_of(name))}).warnings
    assert (warning.code, warning.source) == ("config.no-effect", f"command line -o {name}")
    assert NO_EFFECT[name] in warning.message


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in REFUSED_VALUES for value in REFUSED_VALUES[name]]
)
def test_a_value_that_lmi_cannot_offer_is_refused_with_the_reason(name, value):
    (problem,) = problems_of(**{name: value})
    assert (problem.code, problem.source) == ("config.conflict", f"command line -o {name}")
    assert REFUSED_VALUES[name][value][0] in problem.message


def test_each_argument_is_judged_once():
    names = [*REFUSED, *NO_EFFECT, *NOT_ON_CPU, *IDLE_ON_CPU]
    assert [name for name in names if names.count(name) > 1 or name not in VLLMConfig.model_fields] == []


def test_a_neuron_machine_is_refused_by_name_whatever_the_python(tmp_path):
    """vLLM's plugin for Neuron is not driven yet; nothing of the other Python is asked."""
    folder = write_tiny("llama", tmp_path / "llama")
    flags = {"rolling_batch": "vllm", "tensor_parallel_degree": "2", "pythonExecutable": str(tmp_path / "no-python")}
    with pytest.raises(ArtifactError) as caught:
        plan(
            ModelEntry(url=str(folder)), flags=flags, environ={"HF_HUB_OFFLINE": "1"},
            plugins=Plugins.discover({"LMI_EXTENSIONS": ""}), default_folder=tmp_path / "none", devices="neuron:12",
        )  # fmt: skip
    found = {(each.code, each.message) for each in caught.value.problems}
    assert ("backend.misfit", "vllm runs on cuda, cpu, not on neuron") in found
