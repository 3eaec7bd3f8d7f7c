# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract echo``, or pytest."""

from lmi.testing import BackendCase

CASE = BackendCase(backend="echo", kill_engine=lambda engine: engine.die())
