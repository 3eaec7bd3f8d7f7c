# SPDX-License-Identifier: Apache-2.0
"""Lets processes of a test find a machine with Neuron devices in a folder, STANDIN_NEURON_ROOT, instead of at /."""

import os
from pathlib import Path

if os.environ.get("STANDIN_NEURON_ROOT"):
    from lmi import target

    _ROOT = Path(os.environ["STANDIN_NEURON_ROOT"])
    for _function in (target.detect_target, target.visible_problems):
        _function.__defaults__ = (*(_function.__defaults__ or ())[:-1], _ROOT)
