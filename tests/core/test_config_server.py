# SPDX-License-Identifier: Apache-2.0
"""What holds for the whole server: layers, values, and keys that are gone."""

import pytest

from lmi.api import ConfigError, Severity
from lmi.config.server import (
    NOT_SUPPORTED,
    OF_NO_USE,
    defaults_of_models,
    named_file,
    read_server_settings,
    server_options,
)


@pytest.fixture
def read(tmp_path):
    def _read(text="", environ=(), flags=()):
        path = tmp_path / "config.properties"
        path.write_text(text)
        return read_server_settings(dict(environ), config_file=path, flags=dict(flags))

    return _read


def test_variables_beat_the_command_line_which_beats_the_file(read):
    settings = read("load_models=file", {"SERVING_LOAD_MODELS": "variable"}, {"load_models": "flag"})
    winner = settings["load_models"]
    assert (winner.value, winner.source) == ("variable", "SERVING_LOAD_MODELS")
    assert [(each.value, each.source) for each in winner.overrode] == [
        ("flag", "command line"),
        ("file", "config.properties:1"),
    ]


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("inference_address=http://127.0.0.1:8081", "inference_address", "http://127.0.0.1:8081"),
        ("model_store=/opt/ml/model", "model_store", "/opt/ml/model"),
        ("load_models=ALL", "load_models", "ALL"),
        ("model_url_pattern=s3://.*", "model_url_pattern", "s3://.*"),
        ("wait_model_loading=FALSE", "wait_model_loading", False),
        ("allow_multi_status=true", "allow_multi_status", True),
        ("cors_allowed_origin=*", "cors_allowed_origin", "*"),
        ("cors_allowed_methods=GET, POST", "cors_allowed_methods", "GET, POST"),
        ("cors_allowed_headers=a", "cors_allowed_headers", "a"),
    ],
)
def test_every_key_of_the_server_is_typed(read, text, field, value):
    options, problems = server_options(read(text))
    assert (getattr(options, field), problems) == (value, [])
    key, _, written = text.partition("=")
    from_variable, _ = server_options(read(environ={f"SERVING_{key.upper()}": written}))
    assert getattr(from_variable, field) == value


def test_the_plain_keys_of_the_file_are_every_models_defaults(read):
    settings = read("job_queue_size=5\nload_models=ALL\nbatch_size=2", {"SERVING_BATCH_SIZE": "3"})
    assert {each.key: each.value for each in defaults_of_models(settings)} == {"job_queue_size": "5"}


@pytest.mark.parametrize("key", OF_NO_USE)
def test_a_key_without_effect_is_a_warning_that_says_why(read, key):
    _, [problem] = server_options(read(f"{key}=1"))
    assert (problem.code, problem.severity, problem.source) == (
        "config.of-no-use",
        Severity.WARNING,
        "config.properties:1",
    )
    assert OF_NO_USE[key] in problem.message


@pytest.mark.parametrize("key", NOT_SUPPORTED)
def test_a_key_that_is_not_supported_stops_the_start_and_says_what_there_is(read, key):
    with pytest.raises(ConfigError) as caught:
        server_options(read(environ={f"SERVING_{key.upper()}": "1"}))
    [problem] = caught.value.problems
    assert (problem.code, problem.hint) == ("config.not-supported", NOT_SUPPORTED[key])
    assert f"'SERVING_{key.upper()}'" in problem.message


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest_one(read):
    with pytest.raises(ConfigError, match=r"'load_model'.*\(config.properties:1\). Did you mean 'load_models'\?"):
        server_options(read("load_model=a=/x"))


def test_of_unknown_variables_only_likely_mistakes_are_told(read):
    environ = {"SERVING_LOAD_MODLES": "a=/x", "SERVING_PORT_8080_TCP": "tcp://10.0.0.1:8080", "SERVING_OPTS": "-Xmx1g"}
    _, [problem] = server_options(read(environ=environ))
    assert (problem.code, problem.severity) == ("config.unknown-key", Severity.WARNING)
    assert problem.hint == "Did you mean 'SERVING_LOAD_MODELS'?"


def test_a_secret_of_the_server_is_never_shown(read):
    with pytest.raises(ConfigError) as caught:
        server_options(read("keystore_pass=hush-hush"))
    # A word of the key says that it is a secret.
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inference_address=https://0.0.0.0:8443", "there is no private_key_file"),
        ("private_key_file=/key.pem", "only one of them is set"),
        ("wait_model_loading=soon", "it must be true or false"),
        ("metrics_namespace=AWS/chat", "metrics_namespace begins with AWS/, which is Amazon's own"),
        ("metrics_namespace=:chat", "metrics_namespace"),
    ],
)
def test_values_that_do_not_go_are_refused(read, text, said):
    with pytest.raises(ConfigError, match=said):
        server_options(read(text))


def test_a_named_file_must_be_there(tmp_path):
    assert named_file(None) is None
    with pytest.raises(ConfigError, match=r"config.unreadable: there is no file '/no/such.properties'"):
        named_file("/no/such.properties")


def test_the_file_of_the_servers_home_is_found(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.properties").write_text("load_models=NONE")
    assert read_server_settings({"MODEL_SERVER_HOME": str(tmp_path)}).text("load_models") == "NONE"
