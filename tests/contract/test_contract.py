# SPDX-License-Identifier: Apache-2.0
"""The contract as a test class: what it forbids, what it excuses, and what it reports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmi.testing import BackendCase, BackendContract
from lmi.testing.contract import RULES
from lmi.testing.rules import ContractError
from tests.limits import limit_s

CASE = BackendCase(backend="toy")

FILE = """
from lmi.testing import BackendCase, BackendContract


class TestContract(BackendContract):
    case = BackendCase(backend="toy", model={model!r}, settings={settings!r}, known_failures={known!r},
                       kill_engine=lambda engine: engine.die())
{more}
"""


def run_pytest(toy, folder: Path, *arguments: str, settings=None, known=None, more: str = "") -> tuple[int, str]:
    """Run a plugin author's own test file."""
    text = FILE.format(model=str(toy.model), settings=settings or {}, known=known or {}, more=more)
    (folder / "test_toy.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder)]
    if not installed_with_plugin():
        command += ["-p", "lmi.testing.pytest_plugin"]
    done = subprocess.run(
        [*command, str(folder / "test_toy.py"), *arguments],
        capture_output=True, text=True, timeout=limit_s(120), env=environ(), cwd=folder, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def environ() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


def installed_with_plugin() -> bool:
    from importlib.metadata import entry_points

    return any(each.value == "lmi.testing.pytest_plugin" for each in entry_points(group="pytest11"))


def test_a_rule_cannot_be_overridden():
    with pytest.raises(ContractError, match=r"overrides or removes rule G1 .*known_failures=\{\"G1\""):

        class Mine(BackendContract):
            case = CASE

            def test_g1_exactly_max_tokens(self, kit):
                pass


def test_a_rule_cannot_be_removed():
    with pytest.raises(ContractError, match="overrides or removes rule L3"):

        class Mine(BackendContract):
            case = CASE
            test_l3_death = None


def test_a_rule_cannot_be_overridden_by_a_second_parent_class():
    class Lenient:
        def test_g6_cancellation(self, kit):
            pass

    with pytest.raises(ContractError, match="overrides or removes rule G6"):

        class Mine(Lenient, BackendContract):
            case = CASE


def test_a_contract_needs_a_case():
    with pytest.raises(ContractError, match="has no case"):

        class Mine(BackendContract):
            pass


@pytest.mark.parametrize(
    ("rule_id", "reason", "said"), [("G99", "a reason that is long", "G99"), ("G1", "no", "say why")]
)
def test_a_known_failure_needs_a_rule_and_a_reason(rule_id, reason, said):
    with pytest.raises(ContractError, match=said):

        class Mine(BackendContract):
            case = BackendCase(backend="toy", known_failures={rule_id: reason})


def test_removing_a_rule_later_fails_the_last_test(toy, tmp_path):
    more = "\nTestContract.test_g1_exactly_max_tokens = None\n"
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P", more=more)
    assert code == 1
    assert "rule G1 (test_g1_exactly_max_tokens) was replaced or removed" in output


def test_the_report_has_every_rule_as_matrix_json_and_markdown(toy, tmp_path):
    reports = [tmp_path / "report.json", tmp_path / "report.md"]
    known = {"G5": "the toy counts wrongly, https://example.org/issues/1"}
    code, output = run_pytest(
        toy, tmp_path, "--lmi-rules=P2,P3,G1,G2,G3,G4,G5,K-seed", *(f"--lmi-report={path}" for path in reports),
        settings={"fault": "G5"}, known=known,
    )  # fmt: skip
    assert code == 0, output
    assert "generation     G1 ok" in output
    assert "G5 known" in output
    assert f"toy: 7 kept, 1 known failure, {len(RULES) - 8} not run of {len(RULES)} rules" in output
    content = json.loads(reports[0].read_text())
    outcomes = {each["id"]: each["outcome"] for each in content["outcomes"]}
    assert (outcomes["G1"], outcomes["G5"], outcomes["L1"]) == ("kept", "known failure", "not run")
    assert content["versions"]["lmi-toy"] == "1.0"
    assert "torch" in content["versions"]
    assert (
        "| G5 | usage counts the ids, on the last chunk alone | known failure | the toy counts"
        in reports[1].read_text()
    )


def test_a_known_failure_that_is_kept_after_all_fails(toy, tmp_path):
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=G3", known={"G3": "it was so in an earlier release"})
    assert code == 1
    assert "XPASS(strict)" in output
    assert "G3 FAILED" in output


def test_a_skip_counts_as_a_failure(toy, tmp_path):
    more = "\n    import pytest as _p\n    _p.skip.__doc__\n"
    more += "\nimport lmi.testing.kit as _k, pytest\n_k.Kit.prompt = lambda self, number: pytest.skip('too hard')\n"
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=G3", more=more)
    assert code == 1
    assert "rule G3 was skipped; there are no skips" in output


def test_the_command_says_which_rules_are_broken_and_why(toy, tmp_path):
    report = tmp_path / "report.json"
    command = [str(Path(sys.executable).with_name("lmi")), "contract", "toy", "--model", str(toy.model)]
    arguments = ["-o", "fault=G4", "--rules", "G1,G4", "--report", str(report)]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        timeout=limit_s(60),
        env=environ(),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "G1 ok  " in done.stdout
    assert "G4 FAILED: one last chunk, and nothing after it\n    finish stands on chunks" in done.stdout
    assert [each["outcome"] for each in json.loads(report.read_text())["outcomes"]].count("broken") == 1


def test_the_command_names_the_nearest_backend(toy):
    command = [sys.executable, str(Path(sys.executable).with_name("lmi")), "contract", "ehco"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(60), env=environ(), check=False)
    assert done.returncode == 1
    assert "there is no backend 'ehco'. Did you mean 'echo'?" in done.stderr
