# SPDX-License-Identifier: Apache-2.0
"""Devices: which there are, how many a copy of the model takes, and which copy gets which."""
