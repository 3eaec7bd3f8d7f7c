# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract echo``, or pytest."""

from typing import cast

from lmi.testing import BackendCase
from lmi_echo.engine import EchoEngine

CASE = BackendCase(backend="echo", kill_engine=lambda engine: cast(EchoEngine, engine).die())
