# SPDX-License-Identifier: Apache-2.0
"""Discovery and isolation of plugins, with real distributions on the path."""

import sys

import pytest

from lmi.api import BackendConfig, PluginError, hookimpl
from lmi.plugins import Kind, Plugins, State, discovery
from tests.core.distributions import BACKEND, Distributions


@pytest.fixture
def installed(tmp_path, monkeypatch):
    distributions = Distributions(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", distributions.entry_points)
    yield distributions
    distributions.forget()


def record_of(plugins, name):
    return next(record for record in plugins.records if record.name == name)


def test_a_backend_is_found_and_described(installed):
    installed.backend("acme", version="2.1")
    plugins = Plugins.discover({})
    record = record_of(plugins, "acme")
    assert (record.kind, record.package, record.state) == (Kind.BACKEND, "lmi-acme 2.1", State.READY)
    assert plugins.backends["acme"].summary == "a fake"
    assert plugins.config_type("acme").__name__ == "FakeConfig"


def test_a_backend_without_options_of_its_own_has_the_common_ones(installed):
    installed.backend("plain", more="del lmi_config_type")
    assert Plugins.discover({}).config_type("plain") is BackendConfig


def test_a_plugin_that_cannot_be_imported_is_kept_with_its_traceback_and_harms_no_other(installed):
    installed.backend("good")
    installed.install("lmi-bad", "lmi.backends", "bad", "import no_such_engine_library")
    plugins = Plugins.discover({})
    bad = record_of(plugins, "bad")
    assert bad.state is State.BROKEN
    assert bad.reason == "cannot be imported: No module named 'no_such_engine_library'"
    assert "import no_such_engine_library" in bad.traceback
    assert list(plugins.backends) == ["good"]


def test_a_plugin_that_exits_while_imported_does_not_end_the_process(installed):
    installed.install("lmi-bad", "lmi.backends", "bad", "raise SystemExit(3)")
    assert record_of(Plugins.discover({}), "bad").reason == "cannot be imported: SystemExit: 3"


HOOK = "lmi_validate_artifacts"
PLACE = f"lmi_acme_1_0_acme:{BACKEND.count(chr(10)) + 1}"
WHERE = f"{HOOK} ({PLACE})"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            "@hookimpl\ndef lmi_load_engin(artifacts): ...",
            f"no hook 'lmi_load_engin' ({PLACE}). Did you mean 'lmi_load_engine'?",
        ),
        ("@hookimpl\ndef lmi_xyz(): ...", f"no hook 'lmi_xyz' ({PLACE})"),
        (f"@hookimpl\ndef {HOOK}(artefacts): ...", f"{WHERE} has no parameter 'artefacts'. Did you mean 'artifacts'?"),
        (f"@hookimpl\ndef {HOOK}(xyz): ...", f"{WHERE} has no parameter 'xyz'. It has: artifacts, config, target"),
        ("@hookimpl\ndef lmi_config_type(xyz): ...", "has no parameter 'xyz'. It has none"),
        (f"@hookimpl\ndef {HOOK}(config=None): ...", f"{WHERE} gives a default to 'config', which then gets no value"),
        (f"@hookimpl\ndef {HOOK}(*, config): ...", f"{WHERE} takes 'config' by keyword only"),
        (f"@hookimpl\ndef {HOOK}(**given): ...", f"{WHERE} takes *given, which gets no value"),
        ("@hookimpl(wrapper=True)\ndef lmi_load_engine(): ...", "function is not a generator function"),
        (f"def {HOOK}(artifacts): ...", f"{HOOK} lacks its @hookimpl"),
        ("del lmi_load_engine", "it has no hook lmi_load_engine"),
        ("@hookimpl\ndef lmi_describe_backend():\n    raise OSError('x')", "lmi_describe_backend failed: OSError: x"),
        ("@hookimpl\ndef lmi_describe_backend():\n    return 'acme'", "gave 'acme', not a BackendInfo"),
        ("@hookimpl\ndef lmi_config_type():\n    return dict", "not a BackendConfig class"),
    ],
)  # fmt: skip
def test_a_plugin_that_does_not_keep_the_specifications_is_broken_and_says_how(installed, more, reason):
    installed.backend("acme", more=more)
    record = record_of(Plugins.discover({}), "acme")
    assert record.state is State.BROKEN
    assert reason in record.reason


def test_all_that_is_wrong_with_the_hooks_of_a_plugin_is_said_at_once(installed):
    more = (
        "@hookimpl\ndef lmi_config_typ(): ...\n\n@hookimpl\ndef lmi_validate_artifacts(target=None, modell=None): ..."
    )
    installed.backend("acme", more=more)
    reason = record_of(Plugins.discover({}), "acme").reason
    assert [word for word in ("lmi_config_typ'", "'target'", "'modell'") if word not in reason] == []


def test_a_hook_whose_answers_are_passed_on_cannot_be_wrapped(installed):
    installed.extension("guard", "@hookimpl(wrapper=True)\ndef lmi_filter_text(text):\n    return (yield)\n")
    record = record_of(Plugins.discover({}), "guard")
    assert record.code == "plugin.bad-hooks"
    assert "lmi_filter_text" in record.reason
    assert "cannot be a wrapper" in record.reason


def test_a_hook_marked_as_optional_need_not_exist(installed):
    installed.backend("acme", more="@hookimpl(optionalhook=True)\ndef lmi_of_a_later_version(): ...")
    assert record_of(Plugins.discover({}), "acme").state is State.READY


def test_what_an_uninstall_left_behind_is_listed_without_a_version(installed):
    installed.backend("acme")
    (installed.folder / "lmi_acme-1.0.dist-info" / "METADATA").unlink()
    record = record_of(Plugins.discover({}), "acme")
    assert (record.state, record.distribution, record.version) == (State.READY, "", "")


def test_a_backend_that_calls_itself_otherwise_than_its_entry_point_is_broken(installed):
    code = installed.backend("acme")
    installed.install("lmi-other", "lmi.backends", "other", f"from {code} import *")
    assert "called 'other' and it calls itself 'acme'" in record_of(Plugins.discover({}), "other").reason


def test_two_distributions_with_one_backend_name_are_refused_by_both_names_and_neither_is_imported(installed):
    modules = [installed.backend("acme", distribution=name) for name in ("lmi-acme", "lmi-acme-fork")]
    plugins = Plugins.discover({})
    assert [record.state for record in plugins.records] == [State.DUPLICATE] * 2
    assert not any(module in sys.modules for module in modules)
    with pytest.raises(PluginError) as caught:
        plugins.hooks("acme")
    assert str(caught.value) == (
        "plugin.duplicate: backend 'acme' is offered by lmi-acme 1.0 and lmi-acme-fork 1.0. Uninstall one of them."
    )


def test_a_worker_loads_its_backend_alone(installed):
    other = installed.backend("other")
    installed.backend("acme")
    plugins = Plugins.discover({}, only_backend="acme")
    assert list(plugins.backends) == ["acme"]
    assert other not in sys.modules


FILTER = "@hookimpl\ndef lmi_filter_request(request):\n    request.append('{name}')"


@pytest.fixture
def three_extensions(installed):
    return {name: installed.extension(name, FILTER.format(name=name)) for name in ("audit", "guard", "zeal")}


def calls_of(plugins):
    calls = []
    plugins.extension_hooks.lmi_filter_request(request=calls)
    return calls


def test_without_lmi_extensions_all_are_called_by_name(three_extensions):
    assert calls_of(Plugins.discover({})) == ["audit", "guard", "zeal"]


def test_lmi_extensions_is_an_allow_list_in_its_order_and_the_others_are_not_imported(three_extensions):
    plugins = Plugins.discover({"LMI_EXTENSIONS": "zeal, audit"})
    assert calls_of(plugins) == ["zeal", "audit"]
    assert record_of(plugins, "guard").state is State.BLOCKED
    assert three_extensions["guard"] not in sys.modules


def test_an_empty_lmi_extensions_allows_none(three_extensions):
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    assert calls_of(plugins) == []
    assert not any(module in sys.modules for module in three_extensions.values())


def test_lmi_extensions_blocks_no_backend(installed):
    installed.backend("acme")
    assert list(Plugins.discover({"LMI_EXTENSIONS": ""}).backends) == ["acme"]


def test_a_named_extension_that_is_not_installed_stops_the_start_with_the_nearest_name(three_extensions):
    plugins = Plugins.discover({"LMI_EXTENSIONS": "gaurd"})
    with pytest.raises(
        PluginError, match=r"names the extension 'gaurd', which is not installed. Did you mean 'guard'\?"
    ):
        plugins.extension_problems()


def test_a_broken_extension_is_a_warning_until_somebody_names_it(installed):
    installed.extension("guard", "1 / 0")
    (problem,) = Plugins.discover({}).extension_problems()
    assert "extension 'guard' of lmi-guard 1.0 is left out: cannot be imported: ZeroDivisionError" in problem.message
    with pytest.raises(PluginError, match=r"plugin.import-failed: lmi-guard 1.0 is installed but cannot be imported"):
        Plugins.discover({"LMI_EXTENSIONS": "guard"}).extension_problems()


def test_hooks_of_a_backend_are_called_for_its_own_model_only(installed):
    for name in ("one", "two"):
        more = f"@hookimpl\ndef lmi_validate_artifacts():\n    return ['{name}']"
        installed.backend(name, more=more)
    installed.extension("audit", "@hookimpl\ndef lmi_validate_artifacts():\n    return ['audit']")
    plugins = Plugins.discover({})
    answers = plugins.hooks("one").lmi_validate_artifacts(artifacts=None, config=None, target=None)
    assert sorted(answers) == [["audit"], ["one"]]
    assert plugins.extension_hooks.lmi_validate_artifacts(artifacts=None, config=None, target=None) == [["audit"]]


class CoreDefault:
    @hookimpl(trylast=True)
    def lmi_generate_batch(self, engine, requests):
        return ["core"]


def test_a_registered_default_answers_where_no_plugin_does(installed):
    installed.backend("plain")
    installed.backend("own", more="@hookimpl\ndef lmi_generate_batch(engine):\n    return ['own']")
    plugins = Plugins.discover({})
    plugins.register(CoreDefault(), "core")
    assert plugins.hooks("plain").lmi_generate_batch(engine=None, requests=[]) == ["core"]
    assert plugins.hooks("own").lmi_generate_batch(engine=None, requests=[]) == ["own"]


def test_an_extension_wraps_a_backends_hook(installed):
    installed.backend("acme", more="@hookimpl\ndef lmi_generate_batch(engine):\n    return ['acme']")
    installed.extension(
        "audit", "@hookimpl(wrapper=True)\ndef lmi_generate_batch(requests):\n    return [*(yield), 'seen']"
    )
    hooks = Plugins.discover({}).hooks("acme")
    assert hooks.lmi_generate_batch(engine=None, requests=[]) == ["acme", "seen"]


def test_registering_an_unknown_hook_is_refused(installed):
    class Misspelt:
        @hookimpl
        def lmi_filter_texts(self, text):
            return text

    with pytest.raises(PluginError, match=r"Did you mean 'lmi_filter_text'\?"):
        Plugins.discover({}).register(Misspelt(), "misspelt")


def test_hook_calls_are_traced_by_name_on_demand(three_extensions, capsys):
    calls_of(Plugins.discover({"LMI_TRACE_HOOKS": "1", "LMI_EXTENSIONS": "guard"}))
    assert capsys.readouterr().err == "hook lmi_filter_request: extension:guard\n"


def test_the_hooks_that_describe_a_backend_are_traced_too(installed, capsys):
    installed.backend("acme")
    Plugins.discover({"LMI_TRACE_HOOKS": "1"})
    lines = ["hook lmi_describe_backend: backend:acme", "hook lmi_config_type: backend:acme"]
    assert capsys.readouterr().err.splitlines() == lines


def test_nothing_is_traced_unless_asked(three_extensions, capsys):
    calls_of(Plugins.discover({"LMI_TRACE_HOOKS": "0"}))
    assert capsys.readouterr().err == ""


def test_two_discoveries_share_nothing(installed):
    installed.backend("acme")
    first, second = Plugins.discover({}), Plugins.discover({})
    first.register(CoreDefault(), "core")
    assert second.hooks("acme").lmi_generate_batch(engine=None, requests=[]) is None
