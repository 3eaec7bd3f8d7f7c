# SPDX-License-Identifier: Apache-2.0
"""The backend `vllm` keeps the whole contract, on a tiny Llama and on the demo model, by `lmi contract`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from lmi.testing.contract import RULES
from tests.limits import limit_s

pytestmark = pytest.mark.long


def outcomes(python: str, report: Path, *arguments: str) -> dict[str, str]:
    """What became of each rule, by its id; fails if one is broken."""
    command = [python, str(Path(python).with_name("lmi")), "contract", "vllm", "--report", str(report), *arguments]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCH_COMPILE_DISABLE": "1"}
    with (
        (report.parent / "output.txt").open("w+") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environ, start_new_session=True) as process,
    ):
        try:
            code = process.wait(limit_s(1800))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # engines of a run that took too long
        output.seek(0)
        assert code == 0, output.read()[-6000:]
    found = json.loads(report.read_text("utf-8"))
    assert not found["errors"]
    return {each["id"]: each["outcome"] for each in found["outcomes"]}


@pytest.mark.parametrize("model", ["tiny", "demo"])
def test_the_contract_is_kept(vllm_python: str, demo_model: Path, tmp_path: Path, model: str) -> None:
    arguments = ["--model", str(demo_model), "--inexact", "-o", "max_model_len=512"] if model == "demo" else []
    found = outcomes(vllm_python, tmp_path / "report.json", *arguments)
    assert set(found) == set(RULES)
    counted = Counter(found.values())
    assert counted["kept"] + counted["not declared"] == len(RULES), found
    assert counted["kept"] >= 40, counted
