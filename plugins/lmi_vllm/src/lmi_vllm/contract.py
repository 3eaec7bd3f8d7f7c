# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract vllm``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="vllm", settings={"dtype": "fp32", "enforce_eager": True}, model="llama")
