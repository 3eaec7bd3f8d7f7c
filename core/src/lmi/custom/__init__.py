# SPDX-License-Identifier: Apache-2.0
"""A model's own ``model.py``: found and judged without running it, then run where it belongs."""
