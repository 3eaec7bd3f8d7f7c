# SPDX-License-Identifier: Apache-2.0
"""What `lmi check` and a worker find out about the engine library of a backend."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmi.api import (
    BackendConfig,
    BackendInfo,
    EngineLibrary,
    EngineLoadError,
    ModelArtifacts,
    PluginError,
    Severity,
    Target,
)
from lmi.cli.check import check
from lmi.loading import load_engine
from lmi.plugins import Plugins, discovery
from lmi.plugins.fit import Circumstances
from lmi.plugins.libraries import installed, library_problems
from lmi.probing import ask
from tests.core.distributions import Distributions
from tests.core.model_folders import write_model
from tests.limits import limit_s

LIBRARY = (
    "engine_libraries=(EngineLibrary(distribution='acme-engine', versions='>=2,<3', builds=('acme-engine-cpu',)),)"
)


class Site(Distributions):
    """Distributions that this process and those it starts find."""

    def library(self, name: str, version: str) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("LMI_EXTENSIONS", "")
    monkeypatch.setattr(discovery, "entry_points", made.entry_points)
    yield made
    made.forget()


def info_of(versions=">=2,<3", **more):
    library = EngineLibrary(distribution="acme-engine", versions=versions, builds=("acme-engine-cpu",))
    return BackendInfo(name="acme", summary="a fake", engine_libraries=(library,), **more)


# ------------------------------------------------------------------------------------------- libraries and versions


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        ({"acme-engine": "2.1"}, []),
        ({"acme-engine-cpu": "2.1"}, []),
        ({"acme-engine": "2.1+cu130"}, []),
        ({"acme-engine": "2.5rc1"}, []),
        ({"acme-engine": "3.0"}, ["acme-engine 3.0 is installed, and acme was tested with acme-engine>=2,<3"]),
        ({"acme-engine-cpu": "1"}, ["acme-engine-cpu 1 is installed, and acme was tested with acme-engine-cpu>=2,<3"]),
        ({"acme-engine": "nightly"}, ["acme-engine nightly is installed, and acme was tested with acme-engine>=2,<3"]),
        (
            {"acme-engine": "2.1", "acme-engine-cpu": "2.2"},
            ["acme-engine 2.1 and acme-engine-cpu 2.2 are both installed; their files overwrite each other"],
        ),
    ],
)
def test_versions_that_were_not_tested_are_warnings_with_the_command_that_brings_tested_ones(site, have, expected):
    for name, version in have.items():
        site.library(name, version)
    found = library_problems(info_of())
    assert [problem.message for problem in found] == expected
    assert all(problem.severity is Severity.WARNING and sys.executable in problem.hint for problem in found)


def test_a_library_that_is_not_there_is_an_error_that_names_its_builds_and_the_python(site):
    (found,) = library_problems(info_of(install="pip install 'lmi-acme[engine]'"))
    assert (found.code, found.severity) == ("engine.not-installed", Severity.ERROR)
    assert found.message == f"acme needs acme-engine or acme-engine-cpu, which {sys.executable} does not have"
    assert found.hint == "pip install 'lmi-acme[engine]'"


def test_without_a_range_every_version_is_fine(site):
    site.library("acme-engine", "0.0.1")
    assert library_problems(info_of(versions="")) == []


def test_a_range_that_is_none_is_the_plugins_fault(site):
    site.library("acme-engine", "2.1")
    with pytest.raises(PluginError, match=r"plugin.bad-description: acme was tested with acme-engine 'two', which is"):
        library_problems(info_of(versions="two"))


@pytest.mark.parametrize(
    ("has", "lacks"),
    [
        ("acme-engine", ""),
        ("acme-engine-cpu", ""),
        ("other", "needs acme-engine, which is not installed"),
    ],
)
def test_any_build_counts_as_the_library_when_a_backend_is_chosen(has, lacks):
    assert Circumstances(None, Target(), has=has.__eq__).lacks(info_of()) == lacks


def test_a_library_that_stands_in_place_of_another_is_enough_and_has_a_range_of_its_own(site):
    other = EngineLibrary(distribution="other-engine", versions=">=7")
    library = EngineLibrary(distribution="acme-engine", versions=">=2,<3", instead=(other,))
    info = BackendInfo(name="acme", summary="a fake", engine_libraries=(library,))
    (found,) = library_problems(info)
    assert found.message == f"acme needs acme-engine or other-engine, which {sys.executable} does not have"
    assert Circumstances(None, Target(), has="other-engine".__eq__).lacks(info) == ""
    site.library("other-engine", "6.0")
    (found,) = library_problems(info)
    assert (found.code, found.severity) == ("engine.untested-version", Severity.WARNING)
    assert found.message == "other-engine 6.0 is installed, and acme was tested with other-engine>=7"


def test_the_builds_that_are_there_are_told_with_their_versions(site):
    site.library("acme-engine-cpu", "2.1")
    assert installed(info_of().engine_libraries[0]) == {"acme-engine-cpu": "2.1"}


# --------------------------------------------------------------------------------------------------------- at the load


def load():
    return load_engine(Plugins.discover(only_backend="acme"), "acme", ModelArtifacts(), {}, lambda *_: None)


def test_a_load_without_the_library_ends_before_the_backend_is_called(site):
    site.backend("acme", extra=LIBRARY, more="@hookimpl\ndef lmi_load_engine():\n    raise AssertionError('called')")
    with pytest.raises(EngineLoadError, match=r"engine.not-installed: acme needs acme-engine or acme-engine-cpu"):
        load()


def test_a_load_with_a_version_that_was_not_tested_goes_on_and_says_so(site, caplog):
    site.backend("acme", extra=LIBRARY)
    site.library("acme-engine", "7")
    load()
    assert "acme-engine 7 is installed, and acme was tested with acme-engine>=2,<3" in caplog.text


PROBLEMS = """
PROBLEMS = [
    Problem(code="engine.symbol-moved", message="acme-engine 2.1 has no run", hint="Take 2.0"),
    Problem(code="engine.symbol-moved", message="acme-engine 2.1 has no stop"),
    Problem(code="engine.slow", message="no kernels", severity=Severity.WARNING),
]
"""


@pytest.mark.parametrize(
    ("cut", "lines"),
    [
        ("[:1]", ["engine.symbol-moved: acme-engine 2.1 has no run. Take 2.0."]),
        ("[2:]", None),
        (
            "",
            [
                "engine.unfit: 2 problems with the engine of acme; nothing was loaded:",
                "  [engine.symbol-moved] acme-engine 2.1 has no run. Take 2.0.",
                "  [engine.symbol-moved] acme-engine 2.1 has no stop.",
            ],
        ),
    ],
)
def test_a_backend_refuses_an_engine_with_every_error_and_logs_the_warnings(site, caplog, cut, lines):
    refusing = f"refuse_engine('acme', PROBLEMS{cut})"
    site.backend(
        "acme", more=f"{PROBLEMS}\n@hookimpl\ndef lmi_load_engine(artifacts, config):\n    {refusing}\n"
        "    return FakeEngine(artifacts, config)"
    )  # fmt: skip
    if lines is None:
        load()
    else:
        with pytest.raises(EngineLoadError) as caught:
            load()
        assert str(caught.value).rstrip(".").splitlines() == [*lines[:-1], lines[-1].rstrip(".")]
    assert ("no kernels" in caplog.text) == (cut != "[:1]")


# ------------------------------------------------------------------------------------------------------- by lmi check


@pytest.fixture
def checked(site, tmp_path, monkeypatch):
    """Runs `lmi check` on a small model with the backend acme; the answer is its JSON."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = str(write_model(tmp_path / "llama"))

    def run(*arguments):
        found = CliRunner().invoke(check, [folder, "-o", "rolling_batch=acme", "--json", *arguments])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return json.loads(found.stdout)

    return run


def told(result):
    return [(problem["code"], problem["message"]) for problem in result["problems"]]


ASKED = "@hookimpl\ndef lmi_check_engine(config):\n    {}"


def test_check_tells_what_the_backend_finds_wrong_with_its_engine(site, checked):
    site.backend("acme", more=PROBLEMS + ASKED.format("return PROBLEMS"))
    found = checked()
    assert told(found) == [
        ("engine.symbol-moved", "acme-engine 2.1 has no run"),
        ("engine.symbol-moved", "acme-engine 2.1 has no stop"),
        ("engine.slow", "no kernels"),
    ]
    assert found["is_valid"] is False


def test_the_backend_is_asked_in_another_process_with_the_options_and_the_workers_variables(site, checked):
    text = "f'{os.getpid()} {os.environ.get(\"ACME\")} {config.dtype}'"
    body = f'import os; return [Problem(code="engine.slow", message={text}, severity=Severity.WARNING)]'
    site.backend("acme", more=ASKED.format(body))
    found = checked("-o", "env=ACME=7", "-o", "dtype=bf16")
    pid, *rest = told(found)[0][1].split()
    assert (int(pid) != os.getpid(), rest, found["is_valid"]) == (True, ["7", "bf16"], True)


def test_what_the_engine_prints_is_no_part_of_the_answer(site, checked):
    site.backend("acme", more=ASKED.format("print('noise'); import os; os.write(2, b'more'); return None"))
    assert told(checked()) == []


def test_without_the_library_the_backend_is_not_asked(site, checked):
    site.backend("acme", extra=LIBRARY, more=ASKED.format("raise AssertionError('asked')"))
    assert [code for code, _ in told(checked())] == ["engine.not-installed"]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise KeyError('x')", "plugin.hook-failed", "lmi_check_engine failed for acme: KeyError: 'x'"),
        ("raise SystemExit('no')", "plugin.hook-failed", "lmi_check_engine failed for acme: SystemExit: no"),
        (
            "print('first'); print('last words'); import os; os.abort()",
            "engine.import-died",
            "was killed by signal 6 when it was asked about the engine of acme: first / last words",
        ),
        (
            "import os; os._exit(7)",
            "engine.import-died",
            f"{sys.executable} ended with code 7 when it was asked about the engine of acme",
        ),
    ],
)
def test_a_question_that_fails_is_told_with_the_last_words(site, checked, body, code, message):
    site.backend("acme", more=ASKED.format(body))
    ((found_code, found_message),) = told(checked())
    assert (found_code, message in found_message) == (code, True), found_message


def test_nobody_is_asked_for_another_machine(site, checked):
    site.backend("acme", extra=LIBRARY, more=ASKED.format("raise AssertionError('asked')"))
    assert told(checked("--devices", "cpu")) == []


def test_problems_of_the_engine_come_with_those_of_the_files(site, checked, tmp_path):
    site.backend("acme", extra=LIBRARY)
    (tmp_path / "llama" / "tokenizer_config.json").unlink()
    assert [code for code, _ in told(checked())] == ["tokenizer.missing", "engine.not-installed"]


# ---------------------------------------------------------------------------------------------------- another Python


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_without_the_core_is_told_with_where_it_was_named(site, checked, tmp_path):
    site.backend("acme")
    bare = script(tmp_path / "python", f'unset PYTHONPATH\nexec {sys.executable} -I -S "$@"')
    found = checked("-o", f"pythonExecutable={bare}")
    assert told(found) == [("worker.no-core", f"{bare}, which would run the worker of acme, has no lmi-core")]
    assert found["problems"][0]["source"] == (
        f"option.pythonExecutable={bare}, command line -o pythonExecutable"
    )  # fmt: skip


def test_a_python_without_the_plugin_is_told(site, checked, tmp_path):
    site.backend("acme")
    other = script(tmp_path / "python", f'unset PYTHONPATH\nexec {sys.executable} "$@"')
    ((code, message),) = told(checked("-o", f"pythonExecutable={other}"))
    assert (code, message) == ("plugin.not-installed", "backend 'acme' is not installed")


def test_a_python_that_is_none_is_told(site, checked, tmp_path):
    site.backend("acme")
    ((code, message),) = told(checked("-o", f"pythonExecutable={tmp_path / 'nothing'}"))
    assert (code, f"{str(tmp_path / 'nothing')!r} cannot be started" in message) == ("worker.no-python", True)


ASKED_OF = {"info": BackendInfo(name="acme", summary="a fake"), "config": BackendConfig()}


def core_of(folder: Path, version: str, engine_check: str | None) -> dict[str, str]:
    """The variables of a process that finds another lmi-core."""
    package = folder / "lmi"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    if engine_check is not None:
        (package / "engine_check.py").write_text(engine_check)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_a_core_that_speaks_another_contract_is_told(tmp_path):
    answer = '{"contract_version": 0, "core_version": "0.0.9", "problems": []}'
    writes = f"import pathlib\ndef main(folder):\n    pathlib.Path(folder, 'answer.json').write_text({answer!r})\n"
    with pytest.raises(
        EngineLoadError, match=r"worker.other-contract: the worker's lmi-core 0.0.9 .* contract 0, this"
    ):
        ask(sys.executable, environ=core_of(tmp_path, "0.0.9", writes), **ASKED_OF)


def test_a_core_that_cannot_be_asked_is_told(tmp_path):
    with pytest.raises(EngineLoadError, match=r"worker.no-core: .* has no lmi-core \S+, but another version"):
        ask(sys.executable, environ=core_of(tmp_path, "0.0.1", None), **ASKED_OF)


def test_a_question_that_takes_too_long_is_a_warning_and_leaves_nothing_behind(tmp_path):
    stuck = tmp_path / "pid"
    slow = script(tmp_path / "python", f"sleep 600 & echo $! > {stuck}; echo importing; wait")
    (found,) = ask(slow, environ=os.environ, limit_s=limit_s(1), **ASKED_OF)
    assert (found.code, found.severity) == ("engine.not-checked", Severity.WARNING)
    assert found.message.endswith("so it is not known whether it fits: importing")
    assert has_ended(int(stuck.read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process ends soon: whoever adopted it may take a moment to collect it."""
    end_s = time.monotonic() + limit_s(10)
    while time.monotonic() < end_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False
