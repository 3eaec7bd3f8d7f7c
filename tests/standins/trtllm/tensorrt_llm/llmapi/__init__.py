# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the LLM classes and their arguments."""
