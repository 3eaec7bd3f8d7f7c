# SPDX-License-Identifier: Apache-2.0
"""Load against a running server: ask, hear, count, and say what to tune next."""
