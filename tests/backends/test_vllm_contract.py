# SPDX-License-Identifier: Apache-2.0
"""The backend `vllm` keeps the whole contract, on a tiny Llama and on the demo model, by `lmi contract`."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lmi.testing.contract import RULES
from tests.limits import limit_s

NOT_DECLARED = {"K-batch_invariant", "K-typical_p"}
KNOWN = {"K-bad_word_ids"}


def outcomes(python: str, report: Path, *arguments: str) -> dict[str, Any]:
    """What became of each rule, by its id; fails if one is broken."""
    command = [python, str(Path(python).with_name("lmi")), "contract", "vllm", "--report", str(report), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s(900), check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(report.read_text("utf-8"))
    assert not found["errors"]
    return {each["id"]: each for each in found["outcomes"]}


def test_the_contract_is_kept(vllm_python: str, tmp_path: Path) -> None:
    found = outcomes(vllm_python, tmp_path / "report.json")
    print(json.dumps({i: (e["outcome"], e["seconds"]) for i, e in found.items()}, indent=1))
    counted = Counter(each["outcome"] for each in found.values())
    print(counted)
    assert set(found) == set(RULES)
    assert {name for name, each in found.items() if each["outcome"] == "known failure"} == KNOWN


@pytest.mark.long
def test_the_contract_is_kept_with_the_demo_model(vllm_python: str, demo_model: Path, tmp_path: Path) -> None:
    found = outcomes(vllm_python, tmp_path / "report.json", "--model", str(demo_model), "--inexact")
    print(json.dumps({i: (e["outcome"], e["seconds"]) for i, e in found.items()}, indent=1))
    assert set(found) == set(RULES)
