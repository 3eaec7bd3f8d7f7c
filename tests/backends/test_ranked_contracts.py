# SPDX-License-Identifier: Apache-2.0
"""The backends that run one process a rank keep the contract, alone and on two ranks."""

from __future__ import annotations

import dataclasses

import pytest

from lmi.testing import BackendContract
from lmi_deepspeed.contract import CASE as DEEPSPEED
from lmi_hf.lmi_dist.contract import CASE as LMI_DIST

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("mpirun")]


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
