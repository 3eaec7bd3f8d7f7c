# SPDX-License-Identifier: Apache-2.0
"""Rules of the checks before a load, against backends that miss, merge or repeat what is wrong with a model."""

import os
import pickle
from pathlib import Path

import pytest

from lmi.testing import write_tiny
from lmi.testing.artifact_rules import cut_weights
from tests.contract.shelf import keep, new_shelf

PARTS = ("weights.a", "weights.b", "weights.c")


def checked_by(answer: str) -> str:
    return f"""
        @hookimpl
        def lmi_validate_artifacts(artifacts, config):
            lost = [name for name in {PARTS} if not (artifacts.path / name).read_bytes() == b"whole"]
            problems = [Problem(code="odd.broken", message=f"{{name}} is broken", hint="copy it") for name in lost]
            {answer}
    """


def cut_a(folder: Path) -> None:
    (folder / "weights.a").write_bytes(b"")


def cut_b(folder: Path) -> None:
    with (folder / "weights.b").open("r+b") as file:
        file.truncate(1)


def cut_c(folder: Path) -> None:
    (folder / "weights.c").write_bytes(b"")


CUTS = (cut_a, cut_b, cut_c)


@pytest.fixture
def shelf(tmp_path):
    with new_shelf(tmp_path / "site") as found:
        yield found


@pytest.fixture
def parts(tmp_path):
    """A model with parts of a format of its own."""
    folder = write_tiny("llama", tmp_path / "parts")
    for name in PARTS:
        (folder / name).write_bytes(b"whole")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_fault_of_one_kind_has_to_be_found(shelf, parts):
    kit = shelf.kit(checked_by("return problems"), extra="", model=parts, faults=CUTS)
    keep("A2", kit)
    keep("A3", kit)


def test_the_first_problem_of_a_kind_is_not_enough(shelf, parts):
    kit = shelf.kit(checked_by("return problems[:1]"), extra="", model=parts, faults=CUTS)
    with pytest.raises(AssertionError, match=r"cut_a, cut_b, cut_c .* only these are found: 1 of 3 odd\.broken"):
        keep("A2", kit)


def test_one_problem_told_many_times_is_one(shelf, parts):
    kit = shelf.kit(checked_by("return problems[:1] * 3"), extra="", model=parts, faults=CUTS)
    with pytest.raises(AssertionError, match=r"1 of 3 odd\.broken"):
        keep("A2", kit)


def test_one_word_for_all_faults_is_not_three_problems(shelf, parts):
    answer = "return problems and [Problem(code='odd.broken', message='something is broken', hint='copy it')]"
    kit = shelf.kit(checked_by(answer), extra="", model=parts, faults=CUTS)
    with pytest.raises(
        AssertionError, match=r"3 faults together \(cut_a, .*\) are 1 problems: \[odd\.broken\] something"
    ):
        keep("A2", kit)


def test_a_fault_that_is_not_found_is_called_by_its_name(shelf, parts):
    kit = shelf.kit(
        checked_by("return [p for p in problems if '.b' not in p.message]"), extra="", model=parts, faults=CUTS
    )
    with pytest.raises(AssertionError, match=r"the fault cut_b was not found(\n|$)"):
        keep("A2", kit)


def test_faults_without_names_are_called_by_their_places(shelf, parts):
    faults = (cut_a, lambda folder: None, cut_c)
    kit = shelf.kit(checked_by("return problems"), extra="", model=parts, faults=faults)
    with pytest.raises(AssertionError, match=r"the fault faults\[1\] \(<lambda>\) was not found"):
        keep("A2", kit)


def test_a_fault_that_cannot_be_made_is_no_fault_of_the_backend(shelf, parts):
    def steal(folder: Path) -> None:
        (folder / "no such file").unlink()

    kit = shelf.kit(checked_by("return problems"), extra="", model=parts, faults=(cut_a, steal, cut_c))
    with pytest.raises(AssertionError, match="the fault steal cannot be made beside no other fault: FileNotFoundError"):
        keep("A2", kit)


def test_a_format_that_the_kit_cannot_spoil_is_told_how_to_be_tested(shelf, tmp_path):
    folder = write_tiny("llama", tmp_path / "own")
    (folder / "model.safetensors").unlink()
    # As PyTorch wrote them before version 1.6: pickles, then numbers, of which nothing tells how many there are.
    pickles = [pickle.dumps(each, protocol=2) for each in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    (folder / "pytorch_model.bin").write_bytes(b"".join(pickles) + bytes(1000))
    with pytest.raises(AssertionError, match=r"the fault cut_weights was not found.*BackendCase\(faults="):
        keep("A2", shelf.kit("", extra="", model=folder))


def test_faults_without_a_folder_to_spoil_are_refused(shelf):
    kit = shelf.kit("", faults=CUTS)
    for rule_id in ("A2", "A3"):
        with pytest.raises(AssertionError, match="this case has none: name one"):
            keep(rule_id, kit)


def test_without_a_model_wrong_options_are_the_faults(shelf):
    kit = shelf.kit("")
    keep("A2", kit)
    keep("A3", kit)


@pytest.mark.parametrize("faults", [(), CUTS], ids=["faults of the kit", "faults of the case"])
def test_the_model_stays_as_it_was_and_no_copy_of_it_is_kept(shelf, parts, faults):
    before = contents(parts)
    kit = shelf.kit(checked_by("return problems"), extra="", model=parts, faults=faults)
    keep("A2", kit)
    keep("A3", kit)
    assert contents(parts) == before
    assert list(kit.scratch.iterdir()) == []


def test_weights_are_cut_without_copying_half_of_them_or_touching_the_original(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    original, link = tmp_path / "original", folder / "model.safetensors"
    with original.open("wb") as file:
        file.truncate(1 << 33)  # sparse: it takes no room
    os.link(original, link)
    cut_weights(folder)
    assert (original.stat().st_size, link.stat().st_size) == (1 << 33, 1 << 20)


def test_the_checks_of_a_backend_run_in_a_process_that_is_ended_too(shelf):
    code = """
        import os, threading

        PARENT = PID

        @hookimpl
        def lmi_validate_artifacts(artifacts, config):
            if os.getpid() != PARENT:
                threading.Event().wait()
            return []
    """
    with pytest.raises(AssertionError, match="Checking a model did not end within"):
        keep("A4", shelf.kit(code.replace("PID", str(os.getpid())), load_s=3))
