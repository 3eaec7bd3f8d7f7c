# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever somebody writes: nothing but answers, whatever the order, and back again."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from lmi.config import Settings, read_settings
from lmi.config.names import FOREIGN_VARIABLES, OVERRIDING_VARIABLES, PLAIN_KEYS, is_secret
from lmi.config.options import ModelOptions
from lmi.config.typed import keys_of
from lmi.effective import Effective, as_properties, as_variables, effective
from lmi.plugins import Plugins
from lmi.target import parse_devices

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


def _found(settings: Settings) -> Effective:
    return Effective("model", settings, parse_devices("cpu"))


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
    (tmp_path / "serving.properties").write_text("\n".join(as_properties(_found(given))), "utf-8")
    from_file = read_settings(model_folder=tmp_path, environ={}, flags={})
    assert _values(from_file) == _values(given)
    environ = dict(line.split("=", 1) for line in as_variables(_found(given)))
    from_variables = read_settings(model_folder=None, environ=environ, flags={})
    lower = {key.lower(): value for key, value in _values(given).items()}
    assert {key.lower(): value for key, value in _values(from_variables).items()} == lower
