# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: `lmi contract acme`, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="acme")
