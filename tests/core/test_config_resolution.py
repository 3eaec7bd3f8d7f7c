# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever somebody writes: nothing but answers, whatever the order, and back again."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from lmi.api import ArtifactError, ConfigError
from lmi.config import Settings, read_settings
from lmi.config.names import FOREIGN_VARIABLES, OVERRIDING_VARIABLES, PLAIN_KEYS, SERVER_KEYS, is_secret
from lmi.config.options import ModelOptions
from lmi.config.server import NOT_SUPPORTED
from lmi.config.settings import Setting
from lmi.config.typed import keys_of
from lmi.config.writing import Form, lines_of, variable_of
from lmi.effective import Effective, effective
from lmi.plugins import Plugins
from lmi.reading import read_configuration, read_start
from lmi.serving.address import wanted_address

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
QUICKLY = hypothesis_settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BACKENDS = ("echo", "hf", "lmi-dist", "vllm", "trtllm", "neuronx", "deepspeed")
DEVICES = ("cpu", "cuda:1", "cuda:4", "neuron:12")
NOWHERE = Path("/no/such/folder")


@functools.cache
def plugins() -> Plugins:
    return Plugins.discover({})


@functools.cache
def known_keys() -> list[str]:
    """Every key of the core and of all backends but the one that says where the model is."""
    types = [ModelOptions, *plugins().config_types().values()]
    return sorted({key for each in types for key in keys_of(each)} - {"option.model_id", "option.s3url"})


VALUES = st.one_of(
    st.sampled_from(
        ["true", "FALSE", "1", "0", "-1", "4", "max", "none", "auto", "bf16", "1e400", "nan", "{}", "[", "a=b"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.sampled_from(
        ["x" * 300, "/" + "x" * 5000, "~nobody-here", "@/dev/zero", "@relative.txt", "${X}", "***", "<a b>"]
    ),
)
KEYS = st.deferred(
    lambda: st.sampled_from([*known_keys(), *sorted(PLAIN_KEYS), "option.dtpye", "engien", "option.", ""])
)
LINES = st.dictionaries(KEYS, VALUES, max_size=6)
VARIABLES = st.dictionaries(
    st.deferred(
        lambda: st.sampled_from(
            sorted({"OPTION_" + key.removeprefix("option.").upper() for key in known_keys()})
            + sorted({*FOREIGN_VARIABLES, *OVERRIDING_VARIABLES, "SERVING_BATCH_SIZE"} - {"HF_MODEL_ID"})
        )
    ),
    VALUES,
    max_size=4,
)


def resolve(folder: Path, environ: dict[str, str], backend: str, devices: str) -> Effective:
    return effective(
        str(folder), flags={"rolling_batch": backend}, environ=environ, plugins=plugins(), devices=devices,
        default_folder=NOWHERE,
    )  # fmt: skip


@QUICKLY
@given(content=st.binary(max_size=200), lines=LINES, environ=VARIABLES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_whatever_is_written_the_answer_is_a_list_of_problems(
    tmp_path: Path, backend: str, content: bytes, lines: dict[str, str], environ: dict[str, str]
) -> None:
    text = "\n".join(f"{key}={value}" for key, value in lines.items()).encode() + b"\n" + content
    (tmp_path / "serving.properties").write_bytes(text)
    device = DEVICES[len(content) % len(DEVICES)]
    found = resolve(tmp_path, environ, backend, device)
    assert found.options or found.problems
    assert all(problem.code and problem.message for problem in found.problems)


SERVER = st.dictionaries(
    st.sampled_from([*sorted(SERVER_KEYS), *sorted(NOT_SUPPORTED), "load_modles", "batch_size"]), VALUES, max_size=3
)
ENTRIES = st.text(st.sampled_from("ab:=/,. [];*s3%\0é"), max_size=24)


@QUICKLY
@given(server=SERVER, entries=ENTRIES, model=st.none() | ENTRIES | VALUES)
def test_whatever_is_written_for_the_server_the_answer_is_models_or_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: dict[str, str], entries: str, model: str | None
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    (tmp_path / "config.properties").write_text("\n".join(f"{key}={value}" for key, value in server.items()), "utf-8")
    flags = {"load_models": entries} if entries else {}
    try:
        start = read_start(
            model, environ={}, flags={}, server_flags=flags, config_file=str(tmp_path / "config.properties"),
            default_folder=NOWHERE,
        )  # fmt: skip
        for entry in start.entries:
            read_configuration(entry, environ={}, flags={}, default_folder=NOWHERE, devices="cpu")
        wanted_address(start.server, start.server_settings, {})
    except ConfigError as error:
        assert str(error)
    except ArtifactError as error:  # an object store that is not there
        assert error.code == "model.unreachable"


@QUICKLY
@given(lines=LINES, environ=VARIABLES, random=st.randoms(use_true_random=False))
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_keys_changes_nothing(
    tmp_path: Path, backend: str, lines: dict[str, str], environ: dict[str, str], random: Any
) -> None:
    written = [f"{key}={value}".replace("\\", "").replace("\n", " ").replace("\r", " ") for key, value in lines.items()]
    results = []
    for _ in range(2):
        (tmp_path / "serving.properties").write_text("\n".join(written), "utf-8")
        found = resolve(tmp_path, environ, backend, "cuda:4")
        # Where a value stands moves with its line.
        results.append(
            (
                {key: each.value for key, each in found.options.items()},
                sorted((problem.code, problem.message.partition(" (")[0]) for problem in found.problems),
                found.n_workers,
            )
        )
        random.shuffle(written)
        environ = dict(reversed(environ.items()))
    assert results[0] == results[1]


def _values(settings: Settings) -> dict[str, str]:
    return {key: setting.value for key, setting in settings.items()}


WRITABLE = st.dictionaries(
    st.deferred(lambda: st.sampled_from([key for key in known_keys() if not is_secret(key)])),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\\#={}:! "))
    .map(str.strip)
    .filter(lambda value: value and not value.startswith("@/")),
    max_size=6,
)


@QUICKLY
@given(values=WRITABLE)
def test_a_configuration_written_as_a_file_and_as_variables_reads_back_the_same(
    tmp_path: Path, values: dict[str, str]
) -> None:
    given = read_settings(model_folder=None, environ={}, flags=values)
    text = "\n".join(each.text for each in lines_of(given.values(), Form.FILE))
    (tmp_path / "serving.properties").write_text(text, "utf-8")
    assert _values(read_settings(model_folder=tmp_path, environ={}, flags={})) == _values(given)
    lines = [each.text for each in lines_of(given.values(), Form.VARIABLES)]
    environ = dict(line.split("=", 1) for line in lines if line)
    of_one_line = {key: value for key, value in _values(given).items() if "\n" not in value}
    assert _values(read_settings(model_folder=None, environ=environ, flags={})) == of_one_line


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("option.dtype", "OPTION_DTYPE"),
        ("option.entryPoint", "OPTION_ENTRYPOINT"),
        ("option.modelName", "OPTION_MODELNAME"),
        ("engine", "OPTION_ENGINE"),
        ("job_queue_size", "SERVING_JOB_QUEUE_SIZE"),
        ("minWorkers", "SERVING_MINWORKERS"),
        ("gpu.minWorkers", "SERVING_GPU_MINWORKERS"),
        ("load_models", "SERVING_LOAD_MODELS"),
        ("option.myVar", "OPTION_myVar"),
        ("option.a.b", "OPTION_a.b"),
        ("option.a b", ""),
        ("option.", ""),
    ],
)
def test_each_key_has_the_variable_that_reads_back_as_it(key: str, variable: str) -> None:
    assert variable_of(key) == variable
    if variable and key not in SERVER_KEYS:  # which are no model's
        assert list(read_settings(model_folder=None, environ={variable: "3"}, flags={})) == [key]


@pytest.mark.parametrize(
    ("form", "key", "value", "said"),
    [
        (Form.VARIABLES, "option.chat_template", "a\nb", "set OPTION_CHAT_TEMPLATE=@/absolute/path/of/it"),
        (Form.VARIABLES, "option.chat_template", "a\0b", "no variable holds a zero byte"),
        (Form.VARIABLES, "option.a b", "1", "Write it into serving.properties"),
        (Form.FILE, "option.a b", "1", "no option has such a name"),
        (Form.FILE, "option.dtype", "\ud800", "no text of UTF-8"),
        (Form.FILE, "option.dtype", "", "counts as unset"),
        (Form.FILE, "option.hf_token", "hush", "Set OPTION_HF_TOKEN where the server starts"),
        (Form.VARIABLES, "option.env", "A=1,MY_SECRET=hush", "it holds a secret"),
        (Form.VARIABLES, "option.model_id", "https://me:hush@host/x", "it holds a secret"),
    ],
)
def test_what_a_form_cannot_hold_is_said_with_what_to_do(form: Form, key: str, value: str, said: str) -> None:
    [line] = lines_of([Setting(key, value, "here")], form)
    assert line.text == ""
    assert str(line).startswith(f"not written: {key} (here): ")
    assert said in str(line)
    assert "hush" not in str(line)
