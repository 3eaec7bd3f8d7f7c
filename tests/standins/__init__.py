# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for engine libraries that cannot be installed everywhere: their recorded signatures, and a toy inside.

A folder here goes on the module search path of a test, never of anything that is served to people.
"""
