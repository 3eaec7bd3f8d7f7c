# SPDX-License-Identifier: Apache-2.0
"""What `lmi new` writes installs, keeps the contract and serves, as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmi.cli.new import new, write_project
from lmi.testing.contract import RULES
from tests.limits import limit_s
from tests.servers import serve

LMI = str(Path(sys.executable).with_name("lmi"))


def make(name, folder, *options):
    return CliRunner().invoke(new, [name, "--folder", str(folder), *options], standalone_mode=False)


@pytest.fixture(scope="module", params=[pytest.param("engine", marks=pytest.mark.long), "stepper"])
def project(request, tmp_path_factory):
    """A project, written and installed."""
    folder, site = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("site")
    name = f"my-{request.param}"
    made = make(name, folder, *(["--stepper"] if request.param == "stepper" else []))
    assert made.exception is None, made.exception
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, str(folder)], check=True, timeout=limit_s(120))
    return name, folder, {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def test_it_keeps_the_contract(project, tmp_path):
    name, _, environ = project
    done = subprocess.run(
        [sys.executable, LMI, "contract", name], capture_output=True, text=True, timeout=limit_s(120),
        env={**os.environ, **environ}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(rf"^{name}: (\d+) kept(?:, (\d+) not declared)? of {len(RULES)} rules$", done.stdout, re.MULTILINE)
    assert told, f"something was broken, or not run: {done.stdout}"
    assert sum(int(number or 0) for number in told.groups()) == len(RULES)


def test_its_own_tests_pass(project):
    _, folder, environ = project
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--lmi-rules=P2,G1"], capture_output=True,
        text=True, timeout=limit_s(120), env={**os.environ, **environ}, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_it_serves(project):
    name, _, environ = project
    with serve("-o", f"rolling_batch={name}", environ=environ) as server:
        answer = server.generate("Hello", max_new_tokens=10)
        if name == "my-engine":
            assert answer["generated_text"] == "HelloHello"
        lines = list(server.stream("Hello", max_new_tokens=10))
        assert len(lines) == 10
        assert lines[-1]["generated_text"] == answer["generated_text"]


@pytest.mark.long
def test_it_is_typed(project):
    _, folder, environ = project
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "src"], capture_output=True, text=True,
        timeout=limit_s(300), cwd=folder, env={**os.environ, **environ}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_word_of_the_template_is_left(project):
    _, folder, _ = project
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    texts = [(path.name, path.read_text("utf-8")) for path in files]
    assert [name for name, text in texts if "acme" in (name + text).lower()] == []


@pytest.mark.parametrize(
    ("name", "module", "camel"),
    [("acme2", "lmi_acme2", "Acme2"), ("my-acme", "lmi_my_acme", "MyAcme"), ("acme_acme", "lmi_acme_acme", "AcmeAcme")],
)
@pytest.mark.parametrize("kind", ["engine", "stepper"])
def test_a_name_with_the_templates_own_in_it_is_written_once(kind, name, module, camel, tmp_path):
    folder = write_project(name, tmp_path / "new", kind=kind)
    assert [path.name for path in (folder / "src").iterdir()] == [module]
    project = (folder / "pyproject.toml").read_text("utf-8")
    assert f'name = "lmi-{name}"' in project
    assert f'{name} = "{module}"' in project
    assert f'{name} = "{module}.contract:CASE"' in project
    code = (folder / "src" / module / f"{kind}.py").read_text("utf-8")
    assert f"from {module}.config import {camel}Config\n" in code
    assert f"class {camel}{kind.capitalize()}(" in code


@pytest.mark.parametrize("name", ["", "Acme", "3d", "a b", "../x", "a_", "é"])
def test_a_name_that_cannot_be_one_is_refused(name, tmp_path):
    made = make(name, tmp_path / "new")
    assert f"{name!r} cannot name a backend" in str(made.exception)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    made = make("acme", tmp_path)
    assert "holds files already" in str(made.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
