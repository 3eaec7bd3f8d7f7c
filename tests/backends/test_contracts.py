# SPDX-License-Identifier: Apache-2.0
"""The backends of this repository keep the whole contract."""

import pytest

from lmi.testing import ARCHITECTURES, BackendCase, BackendContract
from lmi.testing.contract import RULES
from lmi.testing.kit import Kit
from lmi_echo.contract import CASE as ECHO
from lmi_hf.contract import CASE as HF

SMOKE = ("A1", "G1", "G3", "G4", "G5", "G7", "G11", "K-n_logprobs")
"""Rules that an architecture can break on its own."""

PEFTS = "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
"""peft 0.21 asks transformers 5.23 for it."""


class TestEcho(BackendContract):
    case = ECHO


@pytest.mark.filterwarnings(PEFTS)
class TestHfOnLlama(BackendContract):
    case = HF


@pytest.mark.long
@pytest.mark.filterwarnings(PEFTS)
class TestHfOnLlamaInBfloat16(BackendContract):
    case = BackendCase(backend="hf", settings={"dtype": "bf16", "enable_lora": True}, model="llama", is_exact=False)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # transformers, for GPT-BigCode
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if each != "llama"])
def test_hf_runs_every_architecture_alike(architecture, dtype):
    kit = Kit(BackendCase(backend="hf", settings={"dtype": dtype}, model=architecture, is_exact=dtype == "fp32"))
    try:
        for rule_id in SMOKE:
            RULES[rule_id][1](None, kit)
    finally:
        kit.close()
