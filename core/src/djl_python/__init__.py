# SPDX-License-Identifier: Apache-2.0
"""What handlers written for DJL Serving import: ``from djl_python import Input, Output`` works as it did there.

Only the names a ``model.py`` uses are here; the code is LMI's own, after the documented behaviour.
"""

from djl_python.inputs import Input
from djl_python.outputs import Output

__all__ = ["Input", "Output"]
