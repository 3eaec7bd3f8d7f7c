# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract trtllm``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="trtllm", settings={"dtype": "fp16"}, model="llama", is_exact=False, devices="cuda:1")
