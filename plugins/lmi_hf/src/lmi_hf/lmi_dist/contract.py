# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract lmi-dist``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="lmi-dist", model="llama")  # dtype=auto takes the checkpoint's float32
