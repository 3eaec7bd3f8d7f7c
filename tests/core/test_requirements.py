# SPDX-License-Identifier: Apache-2.0
"""A model's requirements.txt: told, installed only where that is asked for, and never half a success."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from lmi.api import ArtifactError, ArtifactFormat, ModelArtifacts, Severity
from lmi.config import ModelOptions
from lmi.requirements import install, requirement_files, requirement_problems
from tests.limits import limit_s

OFF = ModelOptions()
ON = ModelOptions(install_requirements=True)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    return made


@pytest.fixture
def file(folder):
    path = folder / "requirements.txt"
    path.write_text("lmi-example==1.0\n")
    return path


def python_that(tmp_path, *lines):
    """A program that stands where a Python is expected."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


def write_wheel(folder, name, *, needs=""):
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "there = True\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def failure(file, python, environ, **options):
    with pytest.raises(ArtifactError) as caught:
        install(file, python, environ, **options)
    return str(caught.value)


# what there is


def test_files_are_found_in_the_folder_beside_the_weights_and_in_a_repository(folder, file):
    elsewhere = ModelArtifacts(
        folder="s3://bucket/model", format=ArtifactFormat.TRITON_REPOSITORY, inner="repo",
        files={"requirements.txt": 1, "repo/requirements.txt": 1, "other/requirements.txt": 1},
    )  # fmt: skip
    here = ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED, files={"requirements.txt": 1})
    assert requirement_files(elsewhere, folder) == (
        str(file), "s3://bucket/model/requirements.txt", "s3://bucket/model/repo/requirements.txt",
    )  # fmt: skip
    assert requirement_files(here, folder) == (str(file),)
    assert requirement_files(None, None) == ()


def test_a_file_that_is_not_installed_is_told_with_both_ways_to_do_it(folder, file):
    (problem,) = requirement_problems(None, folder, OFF)
    assert (problem.code, problem.severity) == ("requirements.not-installed", Severity.WARNING)
    assert str(problem) == (
        f"[requirements.not-installed] {file} is there and is not installed. If the model needs it and you trust it, "
        f"set option.install_requirements=true, or run: {sys.executable} -m pip install -r {file}."
    )


def test_pip_is_not_recommended_for_a_file_that_is_elsewhere():
    artifacts = ModelArtifacts(folder="s3://b/m", format=ArtifactFormat.PRETRAINED, files={"requirements.txt": 1})
    (problem,) = requirement_problems(artifacts, None, OFF)
    assert problem.message.startswith("s3://b/m/requirements.txt is there")
    assert problem.hint.endswith("set option.install_requirements=true")


def test_nothing_is_told_where_it_is_installed_or_not_there(folder, tmp_path, file):
    assert requirement_problems(None, folder, ON) == []
    assert requirement_problems(None, tmp_path, OFF) == []


def test_it_is_off_unless_it_is_asked_for():
    assert not OFF.install_requirements


# how it is installed


def test_wheels_beside_the_file_are_installed_without_a_network_and_without_what_they_need(folder, file, tmp_path):
    write_wheel(folder / "requirements", "lmi_example", needs="lmi-not-there")
    target = tmp_path / "target"
    told = []
    environ = {**os.environ, "DJL_OFFLINE": "true", "PIP_TARGET": str(target), "PIP_CONFIG_FILE": os.devnull}
    install(file, sys.executable, environ, lambda stage, fraction=None: told.append(stage), timeout_s=limit_s(60))
    assert (target / "lmi_example.py").is_file()
    assert set(told) == {"install requirements"}


def test_what_pip_cannot_find_stops_the_start_with_pips_own_words(file):
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    message = failure(file, sys.executable, environ, timeout_s=limit_s(60))
    assert message.startswith(f"requirements.failed: {file} could not be installed: pip ended with 1: ")
    assert "No matching distribution found for lmi-example==1.0" in message


@pytest.mark.parametrize(
    ("environ", "has_wheels", "arguments"),
    [
        ({}, False, "-r {file}"),
        ({}, True, "--find-links {wheels} -r {file}"),
        ({"DJL_OFFLINE": "true"}, False, "--no-index --no-deps -r {file}"),
        ({"DJL_OFFLINE": "true"}, True, "--no-index --no-deps --find-links {wheels} -r {file}"),
        ({"DJL_OFFLINE": "false", "HF_HUB_OFFLINE": "1"}, False, "-r {file}"),
    ],
)
def test_pip_is_told_where_to_look(folder, file, tmp_path, environ, has_wheels, arguments):
    wheels = folder / "requirements"
    if has_wheels:
        wheels.mkdir()
    python = python_that(tmp_path, f'echo "$PWD $@" > {tmp_path}/said')
    install(file, python, {**environ, "PATH": os.environ["PATH"]})
    said = (tmp_path / "said").read_text().strip()
    start = f"{folder} -m pip install --no-input --disable-pip-version-check --no-color "
    assert said == start + arguments.format(file=file, wheels=wheels)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("No module named pip", "Give it pip: {python} -m ensurepip."),
        ("error: externally-managed-environment", "Make a virtual environment and name its Python with "),
        ("ERROR: no", "Correct the file, put wheels into a folder 'requirements' beside it, or unset "),
    ],
)
def test_a_failure_says_what_to_do(file, tmp_path, line, hint):
    python = python_that(tmp_path, "echo collecting", f"echo '{line}' >&2", "exit 3")
    message = failure(file, python, os.environ)
    assert f"{line}. {hint.format(python=python)}" in message
    assert "pip ended with 3: " in message


def test_a_python_that_is_not_there_is_told(file):
    message = failure(file, "/no/such/python", {})
    assert "/no/such/python cannot be started" in message
    assert message.endswith("Check option.pythonExecutable.")


def test_pip_and_what_it_started_end_when_the_time_is_over(file, tmp_path):
    python = python_that(tmp_path, "sleep 300 &", f"echo $! > {tmp_path}/pid", "wait")
    message = failure(file, python, os.environ, timeout_s=0.5)
    assert "pip did not end within 0.5 s" in message
    assert _is_gone(int((tmp_path / "pid").read_text()))


def test_pip_ends_with_a_server_that_is_told_to_stop(file, tmp_path):
    python = python_that(
        tmp_path, f"echo $$ > {tmp_path}/pid.new", f"mv {tmp_path}/pid.new {tmp_path}/pid", "sleep 300"
    )
    server = f"""
import os, sys, threading, time
from pathlib import Path
from lmi.requirements import install
threading.Thread(target=install, args=(Path({str(file)!r}), {python!r}, os.environ), daemon=True).start()
while not os.path.exists({str(tmp_path / "pid")!r}):
    time.sleep(0.02)
sys.exit(0)
"""
    subprocess.run([sys.executable, "-c", server], check=True, timeout=limit_s(60))
    assert _is_gone(int((tmp_path / "pid").read_text()))


def _is_gone(pid):
    """Whether a process ended, or ends soon; one that nobody waited for stays as a zombie."""
    until = time.monotonic() + limit_s(10)
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
