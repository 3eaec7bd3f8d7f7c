# SPDX-License-Identifier: Apache-2.0
"""The contract as a test class: what it forbids, what it excuses, and what it reports."""

import json
import os

import pytest

from lmi.api import PluginError
from lmi.testing import BackendCase, BackendContract, session
from lmi.testing.contract import RULES
from lmi.testing.rules import ContractError
from tests.contract.runs import contract, kit_with, run_pytest
from tests.core.distributions import Distributions

CASE = BackendCase(backend="toy")


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
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P2", more=more)
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
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P2", known={"P2": "it was so in an earlier release"})
    assert code == 1
    assert "XPASS(strict)" in output
    assert "P2 FAILED" in output


def test_a_skip_counts_as_a_failure(toy, tmp_path):
    more = kit_with("prompt", "import pytest; pytest.skip('too hard')")
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=G3", more=more)
    assert code == 1
    assert "rule G3 was skipped; there are no skips" in output


NOTHING_TO_SAY = kit_with(
    "prompt", "from lmi.testing.rules import NotDeclared; raise NotDeclared('it takes no prompts')"
)


def test_a_rule_about_what_is_not_declared_is_not_called_kept(toy, tmp_path):
    reports = [tmp_path / "report.json", tmp_path / "report.md"]
    arguments = ["--lmi-rules=P2,G3", *(f"--lmi-report={path}" for path in reports)]
    code, output = run_pytest(toy, tmp_path, *arguments, more=NOTHING_TO_SAY)
    assert code == 0, output
    assert "skipped" not in output
    assert "G3 n/a" in output
    assert f"toy: 1 kept, 1 not declared, {len(RULES) - 2} not run of {len(RULES)} rules" in output
    outcome = next(each for each in json.loads(reports[0].read_text())["outcomes"] if each["id"] == "G3")
    assert (outcome["outcome"], outcome["reason"]) == ("not declared", "it takes no prompts")
    assert "| G3 | greedy decoding repeats | not declared | it takes no prompts |" in reports[1].read_text()


def test_a_known_failure_of_a_rule_about_what_is_not_declared_has_to_go(toy, tmp_path):
    known = {"G3": "it was so in an earlier release"}
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=G3", known=known, more=NOTHING_TO_SAY)
    assert code == 1
    assert "G3 FAILED" in output


def test_what_a_backend_does_not_have_is_not_reported_as_kept(toy, tmp_path):
    report = tmp_path / "report.json"
    rules = "K-batch_invariant,K-embedding,K-classification,K-compile,K-tensor_parallel,G2"
    code, output = contract("echo", "--rules", rules, "--report", str(report))
    assert code == 0, output
    outcomes = {each["id"]: each["outcome"] for each in json.loads(report.read_text())["outcomes"]}
    assert {outcomes[each] for each in rules.split(",")} == {"not declared"}


def test_a_rule_without_words_is_reported_with_its_line_of_code(toy, tmp_path):
    more = kit_with("prompt", "assert not arguments")
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=G3", "--assert=plain", "--tb=no", more=more)
    assert code == 1
    assert "G3 FAILED: greedy decoding repeats\n    AssertionError: assert not arguments" in output


@pytest.mark.parametrize(("wrong", "near"), [("g6", "G6"), ("G99", "G9"), ("K-sed", "K-seed")])
def test_an_id_that_names_no_rule_is_refused_with_the_nearest_one(toy, tmp_path, wrong, near):
    said = f"there is no rule and no group of rules '{wrong}' (--lmi-rules). Did you mean '{near}'?"
    code, output = run_pytest(toy, tmp_path, f"--lmi-rules=P,{wrong}")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"[contract.unknown-rule] {said}" in output
    assert "passed" not in output


def test_a_project_may_call_a_fixture_of_its_own_kit(toy, tmp_path):
    more = "\nimport pytest\n\n\n@pytest.fixture\ndef kit():\n    return 'mine'\n"
    more += "\n\ndef test_mine(kit):\n    assert kit == 'mine'\n"
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P2", more=more)
    assert code == 0, output
    assert "3 passed" in output


def test_the_rules_fixture_is_seen_by_no_other_test(toy, tmp_path):
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P2", more="\n\ndef test_mine(kit):\n    pass\n")
    assert code == 1
    assert "fixture 'kit' not found" in output
    assert "P2 ok" in output


def test_a_kit_that_does_not_close_is_reported_and_is_no_fault_of_a_rule(toy, tmp_path):
    report = tmp_path / "report.json"
    more = kit_with("close", "raise RuntimeError('the engine hangs')")
    arguments = ["--lmi-rules=P2", "--tb=no", f"--lmi-report={report}"]
    code, output = run_pytest(toy, tmp_path, *arguments, "-k", "p2", more=more)
    assert code == 1
    assert "P2 ok" in output
    assert "\nkit: the engine hangs\n" in output
    assert "1 error beside the rules" in output
    assert json.loads(report.read_text())["errors"] == ["kit: the engine hangs"]


def test_a_kit_that_cannot_be_made_ready_is_told_once(toy, tmp_path):
    more = kit_with("__init__", "raise OSError('no space left')")
    code, output = run_pytest(toy, tmp_path, "--lmi-rules=P2,G1,G3", "--tb=no", "-r", "N", more=more)
    assert code == 1
    assert "G1 FAILED  " in output
    assert output.count("no space left") == 1


def test_a_report_that_worker_processes_keep_to_themselves_is_missed_aloud(toy, tmp_path):
    (tmp_path / "processes.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--numprocesses', type=int)\n\n\n"
        "def pytest_collection_modifyitems(items):\n    items.clear()\n"
    )
    arguments = ["-p", "processes", "--numprocesses=2", "--lmi-report=report.json"]
    _, output = run_pytest(toy, tmp_path, *arguments)
    assert "The rules ran in 2 worker processes, so there is no report: run them without -n." in output
    assert not (tmp_path / "report.json").exists()


def test_a_worker_process_writes_no_report_of_the_few_rules_it_saw(toy, tmp_path):
    (tmp_path / "worker.py").write_text("def pytest_configure(config):\n    config.workerinput = {}\n")
    code, output = run_pytest(toy, tmp_path, "-p", "worker", "--lmi-rules=P2", "--lmi-report=report.json")
    assert (code, "contract of toy" in output) == (0, False)
    assert not (tmp_path / "report.json").exists()


def test_the_command_says_which_rules_are_broken_and_why(toy, tmp_path):
    report = tmp_path / "report.json"
    code, output = contract(
        "toy", "--model", str(toy.model), "-o", "fault=G4", "--rules", "G1,G4", "--report", str(report)
    )
    assert code == 1, output
    assert "G1 ok  " in output
    assert "G4 FAILED: one last chunk, and nothing after it\n    finish stands on chunks" in output
    assert [each["outcome"] for each in json.loads(report.read_text())["outcomes"]].count("broken") == 1


def test_the_command_says_what_was_skipped(toy, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(kit_with("prompt", "import pytest; pytest.skip('too hard')"))
    code, output = contract("echo", "--rules", "G3", path=tmp_path)
    assert code == 1
    assert "rule G3 was skipped; there are no skips" in output


def test_the_command_names_the_nearest_backend(toy):
    code, output = contract("ehco")
    assert code == 2
    assert "plugin.not-installed: there is no backend 'ehco'. Did you mean 'echo'?" in output


def test_the_command_refuses_rules_and_models_that_do_not_exist_all_at_once(toy):
    code, output = contract("echo", "--rules", "g6,G99,G1", "--model", "lama")
    assert code == 2
    assert "config.invalid: 3 problems on the command line; nothing was run" in output
    assert "[contract.unknown-rule] there is no rule and no group of rules 'g6' (--rules). Did you mean 'G6'?" in output
    assert "'G99' (--rules). Did you mean 'G9'?" in output
    said = (
        "[contract.unknown-model] 'lama' is neither a folder nor a tiny architecture (--model). Did you mean 'llama'?"
    )
    assert said in output


def test_the_command_refuses_options_that_do_not_exist(toy):
    code, output = contract("toy", "-o", "falt=G1", "-o", "pace=fast", "--rules", "C1")
    assert code == 2
    assert "[config.unknown-key] 'falt' is not an option" in output
    assert "'option.pace' is 'fast'" in output
    assert "contract of toy" not in output


def test_a_model_is_a_folder_or_an_architecture(tmp_path):
    (problem,) = session.unknown_model("org/some-model-7b")
    assert "Architectures: llama, " in problem.hint
    assert "not downloaded" in problem.hint
    assert [session.unknown_model(each) for each in (str(tmp_path), "llama", None)] == [[], [], []]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("", ""), list(RULES)),
        (("C,G1", "P,C,A"), ["C1", "C2", "C3", "C4"]),
        (("G1", ""), ["G1"]),
        (("", "L1"), ["L1"]),
    ],
)
def test_rules_and_a_lane_together_are_what_is_in_both(texts, expected):
    assert session.chosen_rules(*texts) == (expected, [])


def test_rules_outside_the_lane_are_refused():
    code, output = contract("echo", "--rules", "G6", "--lane", "static")
    assert code == 2
    assert "[contract.no-rules] no rule is in G6 and in P,C,A (--rules, --lane)" in output


NOISY = """
def pytest_collection_modifyitems(items):
    items.clear()


def pytest_terminal_summary():
    raise RuntimeError("hidden")
"""


def test_the_command_uses_nothing_of_pytests_environment(toy, tmp_path):
    Distributions(tmp_path).install("noisy", "pytest11", "noisy", NOISY)
    (tmp_path / "loud.py").write_text(NOISY)
    variables = {"PYTEST_ADDOPTS": "-k nothing", "PYTEST_PLUGINS": "loud"}
    code, output = contract("echo", "--rules", "G1", path=tmp_path, **variables)
    assert code == 0, output
    assert f"echo: 1 kept, {len(RULES) - 1} not run" in output


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-q")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    seen = []
    monkeypatch.setattr(session.pytest, "main", lambda *_, **__: seen.append(dict(os.environ)) or 0)
    assert session.run("echo", rules="G1") == 0
    assert "PYTEST_ADDOPTS" not in seen[0]
    assert seen[0]["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert os.environ["PYTEST_ADDOPTS"] == "-q"
    assert "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)])
def test_a_run_ends_with_0_only_where_pytest_does(monkeypatch, code, expected):
    monkeypatch.setattr(session.pytest, "main", lambda *_, **__: code)
    assert session.run("echo") == expected


def test_threads_that_never_end_do_not_keep_the_command_from_ending(toy, tmp_path):
    """Python waits at its end for the threads of executors, and an engine that did not close has some."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "if 'contract' in getattr(sys, 'orig_argv', sys.argv):\n"
        "    ThreadPoolExecutor().submit(threading.Event().wait)\n"
    )
    code, output = contract("echo", "--rules", "G1", path=tmp_path)
    assert code == 0
    assert "echo: 1 kept" in output


@pytest.mark.parametrize(
    ("settings", "n_slots"),
    [
        ({}, 4), ({"max_rolling_batch_size": "1"}, 1), ({"option.max_rolling_batch_size": "7"}, 7),
        ({"max_rolling_batch_size": "many"}, 4), ({"max_rolling_batch_size": "0"}, 4),
    ],
)  # fmt: skip
def test_the_slots_of_a_case_are_those_of_its_settings(toy, settings, n_slots):
    case = session.case_of("toy", settings=settings)
    assert case.n_slots == n_slots
    assert [key for key in case.settings if key.startswith("option.")] == []


def test_a_case_that_cannot_be_used_is_refused_before_anything_runs(toy, tmp_path, monkeypatch):
    bad = BackendCase(backend="toy", known_failures={"G1": "no"})
    monkeypatch.setattr(session, "published_case", lambda backend: bad)
    with pytest.raises(PluginError, match=r"contract\.bad-case: the case of backend 'toy' cannot be used: .*say why"):
        session.run("toy")
