# SPDX-License-Identifier: Apache-2.0
"""docs/migrate-from-lmi.md: every command gives what the page shows, and every row of its tables holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.api import Severity
from lmi.config import names
from lmi.effective import Effective, effective
from lmi.imports import Fate, Translation, server_names, table_of, translate
from lmi.plugins import Plugins
from tests.core.model_folders import write_model
from tests.docs.pages import Page, code
from tests.limits import limit_s
from tests.servers import ServerProcess, serve

ROOT = Path(__file__).parents[2]
_PAGE = Page("migrate-from-lmi.md")
PAGE = _PAGE.text
section, rows = _PAGE.section, _PAGE.rows
PLUGINS = Plugins.discover({})


def files() -> Iterator[tuple[str, str]]:
    """Every listing that has a file's name above it."""
    for found in re.finditer(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def console() -> list[tuple[str, list[str]]]:
    """Commands of the page with the lines they print."""
    listings = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = []
    for command, _, shown in (listing.partition("\n") for listing in listings):
        assert command.startswith("$ ")
        found.append((command.removeprefix("$ "), shown.splitlines()))
    return found


def resolved(folder: Path, *lines: str, devices: str = "cuda:4") -> Effective:
    write_model(folder)
    (folder / "serving.properties").write_text("\n".join(lines))
    return effective(str(folder), flags={}, environ={}, plugins=PLUGINS, devices=devices)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {"PATH": path, "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environ, text=True, timeout=limit_s(60), check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    for name, content in files():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(("command", "shown"), console())
def test_every_command_prints_what_the_page_shows(folder: Path, command: str, shown: list[str]) -> None:
    printed = run(command, folder).stdout.splitlines()
    if command.startswith("lmi config import"):
        assert printed == shown
    else:
        assert printed[-len(shown) :] == shown  # above them, the table of values that the page leaves out


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("lmi config import endpoint.env", 0),
        ("echo NUM_SHARD=2 > a; echo API_KEY=x >> a; lmi config import a", 1),
        ("echo hello > a; lmi config import a", 2),
        ("echo A=1 > a; lmi config import a", 2),
        ("lmi config import not-there", 2),
        ("lmi config model --devices cuda:4 -o tensor_paralel_degree=4", 1),
        ("sed -i /paralel/d model/serving.properties; lmi config model --devices cuda:4", 0),
        ("lmi config model --devices gpus", 2),
        ("lmi config model -o dtype", 2),
        ("lmi config --no-such-flag", 2),
        ("sed -i /paralel/d model/serving.properties; lmi check model --devices cuda:4", 0),
        ("sed -i /paralel/d model/serving.properties; lmi check model -o rolling_batch=echo", 0),
        ("lmi check model --devices gpus", 2),
        ("lmi check model -o dtype", 2),
    ],
)
def test_exit_codes_are_those_of_the_page(folder: Path, command: str, exit_code: int) -> None:
    done = run(command, folder)
    assert done.returncode == exit_code, done.stdout


def test_the_variables_that_are_said_to_stay_are_read() -> None:
    said = re.search(r"LMI's images read\*\*:(.*?)\.\n", PAGE, re.DOTALL)
    assert said is not None
    assert set(code(said[1])) - {"HF_TOKEN"} <= set(names.FOREIGN_VARIABLES)


@pytest.mark.parametrize("row", rows("A backend is a package"), ids=lambda row: row[0])
def test_what_selects_a_backend_selects_this_one(tmp_path: Path, row: list[str]) -> None:
    written, backend, install, loads = row
    devices = "neuron:2" if "neuronx" in backend else "cuda:4"
    found = resolved(tmp_path, *code(written), devices=devices)
    assert found.choice is not None, found.problems
    assert found.choice.info.name == code(backend)[0]
    assert found.choice.info.is_loadable is (loads == "yes")
    [record] = [each for each in PLUGINS.records if each.name == found.choice.info.name]
    folder = re.search(r"pip install '?\./([\w/]+)", install)
    assert folder is not None
    project = (ROOT / folder[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'name = "{record.distribution}"' in project


@pytest.mark.parametrize("option", ["gpu_memory_utilization=0.8", "enable_chunked_prefill=true", "enforce_eager=true"])
def test_auto_takes_what_loads_and_options_of_others_are_warnings(tmp_path: Path, option: str) -> None:
    found = resolved(tmp_path, "option.rolling_batch=auto", f"option.{option}")
    assert found.choice is not None
    assert found.choice.info.name == "hf"
    assert [(each.code, each.severity) for each in found.problems] == [("config.other-backend", Severity.WARNING)]


def test_a_place_that_nothing_is_read_from_is_refused_before_anything_is_asked_for(tmp_path: Path) -> None:
    flags = {"model_id": "djl://ai.djl/model", "rolling_batch": "hf"}
    (tmp_path / "serving.properties").write_text("engine=Python")
    found = effective(str(tmp_path), flags=flags, environ={}, plugins=PLUGINS, devices="cpu")
    assert "model.unsupported-location" in [each.code for each in found.problems]
    assert "**`djl://`** is refused (`model.unsupported-location`)" in PAGE


@pytest.mark.parametrize("row", rows("Names that have a successor"), ids=lambda row: row[0])
def test_an_old_name_works_with_a_warning_that_says_what_to_write(tmp_path: Path, row: list[str]) -> None:
    old, new = row
    # A store's prefix would be asked for; the name of a folder does the same.
    lines = [line.replace("s3://bucket/model", str(tmp_path)) for line in code(old)]
    hints = [each.hint for each in resolved(tmp_path, *lines).problems if each.severity is Severity.WARNING]
    assert any(code(new)[0].replace("s3://bucket/model", str(tmp_path)) in hint for hint in hints), hints


@pytest.mark.parametrize("row", rows("Keys with no effect, and keys that are refused"), ids=lambda row: row[0])
def test_a_key_does_nothing_or_is_refused_as_the_page_says(tmp_path: Path, row: list[str]) -> None:
    [problem] = resolved(tmp_path, *code(row[0])).problems
    expected = {"does": ("config.of-no-use", Severity.WARNING), "is": ("config.not-supported", Severity.ERROR)}
    assert (problem.code, problem.severity) == expected[row[1].split()[0]]


# ------------------------------------------------------------------------------------------------------------ clients


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("-o", "rolling_batch=echo", "-o", "max_model_len=64") as process:
        yield process


def noticed(start: str) -> str:
    """What the page says that such a client gets."""
    [answer] = [row[1] for row in rows("What clients notice") if row[0].startswith(start)]
    return answer


@pytest.mark.parametrize(
    ("row", "body", "named"),
    [
        ('sends `{"messages"', {"messages": [{"role": "user", "content": "Hi"}]}, "no-chat-template"),
        ("sets `max_tokns`", {"inputs": "a", "parameters": {"max_tokns": 3}}, "max_new_tokens"),
        ("sends a prompt that is too long", {"inputs": "a" * 60, "parameters": {"max_new_tokens": 9}}, "too-long"),
        ("sets `watermark`", {"inputs": "a", "parameters": {"watermark": True}}, "watermark"),
    ],
)
def test_a_request_that_lmi_took_is_refused_as_the_page_says(
    server: ServerProcess, row: str, body: dict[str, Any], named: str
) -> None:
    answer = server.post(body)
    assert noticed(row).startswith(f"{answer.status_code}")
    assert answer.status_code == 400
    assert named in answer.text
    assert {"code", "error", "message"} == set(answer.json())


def test_several_texts_are_answered_as_the_page_says(server: ServerProcess) -> None:
    answer = server.post({"inputs": ["one", "two"], "parameters": {"max_new_tokens": 3}})
    assert noticed('sends `{"inputs"').startswith(f"{answer.status_code} and a list")
    assert [each["generated_text"] for each in answer.json()] == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "method", "path"),
    [
        ("asks for `/models`", "GET", "/models"),
    ],
)
def test_a_route_that_is_not_there_is_404(server: ServerProcess, row: str, method: str, path: str) -> None:
    assert path in next(cells[0] for cells in rows("What clients notice") if cells[0].startswith(row))
    with server.client() as client:
        answer = client.request(method, path)
    assert noticed(row).startswith(f"{answer.status_code}:")


IMPORTED = [
    ("tgi", variable, cells[1])
    for cells in rows("From Text Generation Inference")
    for variable in code(cells[0])
] + [
    ("vllm", variable, cells[1])
    for cells in rows("From vLLM's SageMaker image")
    for variable in code(cells[0])
]  # fmt: skip


def translated(server: str, text: str) -> Translation:
    name, _, value = text.partition("=")
    return translate({name: value}, table_of(server), PLUGINS)


@pytest.mark.parametrize(("server", "variable", "becomes"), IMPORTED)
def test_a_variable_becomes_what_its_row_says(server: str, variable: str, becomes: str) -> None:
    found = translated(server, variable)
    lines = [f"{each.key}={each.value}" for each in found.settings] + [f"lmi serve {each}" for each in found.flags]
    assert code(becomes)[0] in lines
    assert not found.changes_answers


@pytest.mark.parametrize("value", ["eetq", "exl2", "marlin", "bitsandbytes-fp4"])
def test_the_named_methods_of_compression_have_no_counterpart(value: str) -> None:
    assert f"`{value}`" in section("From Text Generation Inference")
    assert translated("tgi", f"QUANTIZE={value}").changes_answers


@pytest.mark.parametrize(
    ("variable", "is_noticed"),
    [
        ("LORA_ADAPTERS", True), ("MESSAGES_API_ENABLED", True), ("API_KEY", True), ("WAITING_SERVED_RATIO", False),
        ("MAX_WAITING_TOKENS", False), ("MAX_BATCH_TOTAL_TOKENS", False),
    ],
)  # fmt: skip
def test_what_clients_notice_is_what_the_page_says(variable: str, is_noticed: bool) -> None:
    assert f"`{variable}`" in section("From Text Generation Inference")
    [outcome] = translated("tgi", f"{variable}=1").outcomes
    assert outcome.fate is (Fate.CHANGES if is_noticed else Fate.NO_EFFECT)


def test_every_server_is_named() -> None:
    assert set(re.findall(r"`--from (\w+)`", PAGE)) == set(server_names())


def test_without_shards_all_gpus_are_taken() -> None:
    settings = translated("tgi", "MODEL_ID=a/b").settings
    assert ("option.tensor_parallel_degree", "max") in [(each.key, each.value) for each in settings]
