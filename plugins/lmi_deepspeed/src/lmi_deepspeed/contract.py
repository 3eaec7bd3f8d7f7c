# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract deepspeed``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="deepspeed", settings={"dtype": "fp32"}, model="llama")
