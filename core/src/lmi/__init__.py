# SPDX-License-Identifier: Apache-2.0
"""LMI: one HTTP face and one configuration for large language models on any inference library."""

__version__ = "0.1.0"
