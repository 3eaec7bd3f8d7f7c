# SPDX-License-Identifier: Apache-2.0
"""The server process: HTTP, text, health and every request in flight. Imports no engine library."""
