# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract hf``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="hf", settings={"dtype": "fp32", "enable_lora": True}, model="llama")
