# SPDX-License-Identifier: Apache-2.0
"""Time limits of the tests, scaled for slow machines: LMI_TEST_TIME_SCALE=3 makes every limit three times as long."""

import os

SCALE = float(os.environ.get("LMI_TEST_TIME_SCALE", "1"))


def limit_s(seconds: float) -> float:
    return seconds * SCALE
