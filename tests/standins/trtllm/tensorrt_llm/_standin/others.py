# SPDX-License-Identifier: Apache-2.0
"""Enumerations that recorded defaults are members of, and of which nothing else was recorded."""

from enum import Enum


class WaitingQueuePolicy(str, Enum):
    FCFS = "FCFS"


class SpeculativeDecodingMode(Enum):
    NONE = 0
