# SPDX-License-Identifier: Apache-2.0
"""Which backend is chosen, and what is said when none can be."""

import msgspec
import pytest

from lmi.api import Accelerator, ArtifactFormat, ConfigError, ModelArtifacts, PluginError
from lmi.config.settings import Settings
from lmi.plugins.choice import choose, wanted
from tests.core.backend_records import ACME, CPU, GPU, LLAMA, OTHER, PLAYBACK, backend, broken, settings


@pytest.mark.parametrize(
    "asked",
    [{"rolling_batch": "acme"}, {"rolling_batch": "ROLL"}, {"entry_point": "pack.acme"}, {"engine": "AcmeEngine"}],
)
def test_a_backend_is_selected_by_each_of_its_names(asked):
    choice = choose([OTHER, ACME], settings(**asked), LLAMA, CPU)
    assert choice.info.name == "acme"
    assert choice.is_explicit
    assert next(iter(asked.values())) in choice.reason
    assert "OPTION_ROLLING_BATCH" in choice.reason


def test_a_mode_of_the_engine_asks_for_no_backend_by_itself():
    assert wanted([ACME, OTHER], settings(engine="Python"), None, CPU) is None
    assert choose([ACME], settings(engine="MPI"), LLAMA, CPU).info.name == "acme"


def test_a_mode_prefers_the_backends_that_claim_it():
    low = backend("low", engine_names=("Python",))
    high = backend("high", priority=9)
    assert choose([high, low], settings(engine="Python"), LLAMA, CPU).info.name == "low"


@pytest.mark.parametrize("value", ["auto", "disable", ""])
def test_values_that_name_no_backend_leave_the_choice_open(value):
    assert wanted([ACME], settings(rolling_batch=value), None, CPU) is None


def test_rolling_batch_beats_an_entry_point_that_says_otherwise_and_a_warning_says_so():
    choice = choose([ACME, OTHER], settings(rolling_batch="other", entry_point="pack.acme"), LLAMA, CPU)
    assert choice.info.name == "other"
    (warning,) = choice.warnings
    assert (
        "'option.entryPoint=pack.acme' does not select the backend that option.rolling_batch=other" in warning.message
    )


def test_the_backend_made_for_the_device_is_chosen_before_the_one_that_merely_runs_on_it():
    first_on_gpu = backend("a", accelerators=(Accelerator.CUDA, Accelerator.CPU), priority=9)
    first_on_cpu = backend("b", accelerators=(Accelerator.CPU,))
    assert choose([first_on_gpu, first_on_cpu], Settings(), LLAMA, CPU).info.name == "b"
    assert choose([first_on_gpu, first_on_cpu], Settings(), LLAMA, GPU).info.name == "a"


def test_of_equals_the_higher_priority_is_chosen_then_the_name():
    assert choose([ACME, OTHER], Settings(), LLAMA, CPU).info.name == "other"
    assert choose([backend("b"), backend("a")], Settings(), LLAMA, CPU).info.name == "a"


def test_when_none_fits_each_backend_says_why():
    gpu_only = backend("big", accelerators=(Accelerator.CUDA,))
    bert_only = backend("reader", architectures=("BertForMaskedLM",))
    with pytest.raises(PluginError) as caught:
        choose([gpu_only, bert_only, PLAYBACK, broken("bad", "no driver")], Settings(), LLAMA, CPU)
    assert str(caught.value) == (
        "plugin.none-fits: no installed backend serves this model on this machine:\n"
        "  big: runs on cuda, not on cpu\n"
        "  reader: serves BertForMaskedLM, not LlamaForCausalLM\n"
        "  playback: loads none, not pretrained\n"
        "  Broken: bad (lmi-bad 0.4.2): cannot be imported: no driver. "
        "Install a backend that does, or name one with option.rolling_batch."
    )


@pytest.mark.parametrize(("n", "said"), [(3, "serves A0, A1, A2, not"), (9, "serves A0, A1, A2 and 6 more, not")])
def test_a_long_list_of_architectures_is_shortened(n, said):
    with pytest.raises(PluginError) as caught:
        choose([backend("a", architectures=tuple(f"A{i}" for i in range(n)))], Settings(), LLAMA, CPU)
    assert f"\n  a: {said} LlamaForCausalLM" in str(caught.value)


def test_code_of_its_own_that_loads_as_a_causal_language_model_makes_one():
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"}}
    chatglm = ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, architectures=("ChatGLMModel",), config=config
    )
    assert choose([ACME], Settings(), chatglm, CPU).info.name == "acme"
    with pytest.raises(PluginError, match="acme: serves causal language models, not ChatGLMModel"):
        choose([ACME], Settings(), msgspec.structs.replace(chatglm, config={}), CPU)


def test_an_open_list_of_architectures_means_causal_language_models():
    bert = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, architectures=("BertForMaskedLM",))
    with pytest.raises(PluginError, match="acme: serves causal language models, not BertForMaskedLM"):
        choose([ACME], Settings(), bert, CPU)


def test_a_backend_without_model_is_taken_only_when_it_is_asked_for():
    with pytest.raises(ConfigError, match=r"config.no-model: no model was given\. Name a folder or ORG/NAME"):
        choose([PLAYBACK], Settings(), None, CPU)
    assert choose([PLAYBACK], settings(rolling_batch="playback"), None, CPU).info.name == "playback"


def test_a_wanted_backend_that_is_absent_is_named_with_the_installed_ones_and_a_way_to_get_it():
    with pytest.raises(PluginError) as caught:
        choose([ACME], settings(rolling_batch="zoom"), LLAMA, CPU)
    assert str(caught.value) == (
        "plugin.not-installed: rolling_batch=zoom (OPTION_ROLLING_BATCH) needs a backend that is not installed. "
        "Installed: acme (lmi-acme 0.3.1). Try: pip install lmi-zoom."
    )


def test_a_mistyped_backend_gets_the_nearest_name():
    with pytest.raises(PluginError, match=r"Did you mean 'acme'\?"):
        choose([ACME], settings(rolling_batch="amce"), LLAMA, CPU)


def test_a_wanted_backend_that_is_broken_is_not_called_absent():
    with pytest.raises(PluginError) as caught:
        choose([ACME, broken("zoom", "libcudart.so.13 not found")], settings(rolling_batch="zoom"), LLAMA, CPU)
    assert str(caught.value) == (
        "plugin.import-failed: lmi-zoom 0.4.2 is installed but cannot be imported: libcudart.so.13 not found. "
        "The other plugins are unaffected. Full traceback: lmi plugins --check zoom."
    )


def test_with_nothing_installed_it_says_what_to_install():
    with pytest.raises(
        PluginError, match=r"plugin.none-installed: no backend is installed.*packages called lmi-<name>"
    ):
        choose([], Settings(), LLAMA, CPU)


def test_with_only_broken_backends_all_reasons_are_listed():
    with pytest.raises(
        PluginError, match=r"plugin.none-usable: .*zoom \(lmi-zoom 0.4.2\): cannot be imported: no driver"
    ):
        choose([broken("zoom", "no driver")], Settings(), LLAMA, CPU)
