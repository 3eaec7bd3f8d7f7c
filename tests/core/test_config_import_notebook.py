# SPDX-License-Identifier: Apache-2.0
"""`lmi config import`: dicts as notebooks have them, read and not run; and what is said once, or for a machine."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from lmi.api import ConfigError
from lmi.cli.config import config
from lmi.imports import Fate, read_environment, table_of, translate
from lmi.plugins import Plugins
from lmi.target import parse_devices

NOTEBOOKS = {
    "calls": ("{'A': json.dumps(4), 'B': str(7), 'C': int('3'), 'D': float(2), 'E': repr(1.5)}",
              {"A": "4", "B": "7", "C": "3", "D": "2.0", "E": "1.5"}),
    "a switch": ("{'A': json.dumps(True), 'B': str(True), 'C': True}", {"A": "true", "B": "True", "C": "true"}),
    "a structure": ("{'A': json.dumps({'image': 6})}", {"A": '{"image": 6}'}),
    "a negative number": ("{'A': str(-1)}", {"A": "-1"}),
    "names further up": ("n = 4\nmodel = 'a/b'\nenv = {\n  'A': json.dumps(n),\n  'B': model,  # which\n}",
                         {"A": "4", "B": "a/b"}),
    "a whole cell": ("import json\n!pip install x\n%env A=1\nhub = {'A': str(4)}\nm = Model(role=role, env=hub)",
                     {"A": "4"}),
    "within a call": ("import boto3\nmodel = Model(\n  image, env={'A': json.dumps(2)},\n  role=role)", {"A": "2"}),
    "dict()": ("import json\nenv = dict(A='1', B=json.dumps(2))", {"A": "1", "B": "2"}),
    "added later": ("env = {'A': '1'}\nenv['B'] = str(2)\nenv['A'] = '3'", {"A": "3", "B": "2"}),
    "joined": ("first = {'A': '1'}\nmore = {**first, 'b': '2'}", {"A": "1"}),
    "beside a request": ("env = {'A': '1'}\nparameters = {'max_new_tokens': 5, 'x': n}", {"A": "1"}),
    "a doubtful escape": ("env = {'A': '\\d'}", {"A": "\\d"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebooks_dict_gives_its_variables(name):
    text, expected = NOTEBOOKS[name]
    assert read_environment(text, "test", {}) == expected


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("{'A': str(n)}", 1, "'A' is computed: str(n)"),
        ("env = {\n 'A': '1',\n 'B': gpus * 2}", 3, "'B' is computed: gpus * 2"),
        ("\n\nenv = {'A': f'{x}/hush'}", 3, "'A' is computed: f"),
        ("{'A': json.dumps(4, indent=hush('hush'.x))}", 1, "'A' is computed: json.dumps(4, indent="),
        ("{'A': eval('hush')}", 1, "'A' is computed: eval('...')"),
        ("{'A': int('hush')}", 1, "'A' is computed: int('...')"),
        ("{**others, 'A': '1'}", 1, "'others' is computed: others"),
        ("{'A': __import__('hush').hush}", 1, "'A' is computed: __import__('...')"),
    ],
)
def test_what_is_no_constant_is_named_with_its_line_and_is_not_run(text, line, said):
    with pytest.raises(ConfigError, match="1 value would need the notebook to run") as caught:
        read_environment(text, "cell.py", {})
    [problem] = caught.value.problems
    assert problem.source == f"cell.py:{line}"
    assert said in problem.message
    assert "hush'" not in str(caught.value)


def test_every_computed_value_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        read_environment("env = {'A': a(), 'B': '1', 'C': c()}", "cell.py", {})
    assert [each.source for each in caught.value.problems] == ["cell.py:1", "cell.py:1"]


def test_a_mistake_in_a_notebook_is_told_with_its_line_and_not_as_lines_of_variables():
    with pytest.raises(ConfigError, match=r"neither KEY=VALUE lines nor Python: line 3: .*") as caught:
        read_environment("import json\nenv = {\n  'A': json.dumps(4x),\n}", "test", {})
    assert caught.value.problems == ()


def test_a_secret_need_not_be_known_because_it_stays_a_variable():
    variables = read_environment("{'MODEL_ID': 'a/b', 'HUGGING_FACE_HUB_TOKEN': os.environ['hush']}", "test", {})
    found = translate(variables, table_of("tgi"), Plugins.discover({}))
    [outcome] = [each for each in found.outcomes if each.variable == "HUGGING_FACE_HUB_TOKEN"]
    assert (outcome.fate, outcome.why) == (Fate.KEPT, "it holds a secret, which belongs into no file")
    assert "hush" not in repr(variables)


@pytest.mark.parametrize(
    "text", ["a = [1]\n" + "a = [a, a]\n" * 40 + "env = {'A': str(a)}", "a = {}\na['A'] = a\nb = str(a)"]
)
def test_values_that_would_grow_without_end_are_not_computed(text):
    with pytest.raises(ConfigError, match=r"config\.not-an-environment"):
        read_environment(text, "test", {})


@pytest.mark.parametrize("line", ["SM_VLLM_COMPILATION_CONFIG={'a': 1}", 'OPTION_X={"a": 1}'])
def test_lines_of_variables_stay_lines_whatever_their_values_are(line):
    name, _, value = line.partition("=")
    assert read_environment(f"A=1\n{line}\n", "test", {}) == {"A": "1", name: value}


# ------------------------------------------------------------------------------------------- said once, for a machine


@pytest.fixture
def run():
    def _run(*arguments, text):
        return CliRunner().invoke(config, ["import", "-", *arguments], input=text, catch_exceptions=False)

    return _run


def take_out(name, monkeypatch):
    plugins = Plugins.discover({})
    plugins.records = [record for record in plugins.records if record.name != name]
    plugins.backends = {each: info for each, info in plugins.backends.items() if each != name}
    kinds = {each: kind for each, kind in plugins.config_types().items() if each != name}
    monkeypatch.setattr(plugins, "config_types", lambda: dict(kinds))
    monkeypatch.setattr("lmi.cli.config_import.Plugins.discover", lambda _: plugins)


@pytest.mark.parametrize(
    ("server", "variables"),
    [
        ("lmi", {"OPTION_ROLLING_BATCH": "trtllm", "OPTION_MULTI_BLOCK_MODE": "true", "OPTION_ROTARY_DIM": "32"}),
        ("vllm", {"SM_VLLM_ASYNC_SCHEDULING": "true", "SM_VLLM_SCHEDULING_POLICY": "fcfs"}),
    ],
)
def test_options_of_a_backend_that_is_not_installed_have_one_reason_and_it_is_told_once(
    run, monkeypatch, server, variables
):
    backend = "trtllm" if server == "lmi" else "vllm"
    take_out(backend, monkeypatch)
    told = run("--from", server, text="\n".join(f"{name}={value}" for name, value in variables.items())).stderr
    [line] = [line for line in told.splitlines() if "not known" in line]
    unknown = [f"{name}={value}" for name, value in variables.items() if name != "OPTION_ROLLING_BATCH"]
    assert line.startswith(f"changes answers: {', '.join(unknown)}: the options of {backend} are not known")
    assert sum("[plugin.not-installed]" in each for each in told.splitlines()) == 1


def test_reasons_speak_of_the_backend_that_serves_by_its_name(run):
    assert "left out: ATTENTION=paged: vllm chooses its kernels." in run(
        "--to", "vllm", text="MODEL_ID=a/b\nNUM_SHARD=1\nATTENTION=paged\n"
    ).stderr  # fmt: skip


@pytest.mark.parametrize(("devices", "code"), [("cuda:4", None), ("cuda:2", "device.too-few")])
def test_options_are_judged_for_the_machine_that_is_asked_about(devices, code):
    found = translate(
        {"MODEL_ID": "a/b", "NUM_SHARD": "4"}, table_of("tgi"), Plugins.discover({}), "vllm", parse_devices(devices)
    )
    assert [each.code for each in found.problems] == ([code] if code else [])


def test_a_machine_that_is_none_is_refused(run):
    with pytest.raises(ConfigError, match=r"device\.unknown"):
        run("--devices", "gpus:2", text="NUM_SHARD=1")
