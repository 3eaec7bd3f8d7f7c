# SPDX-License-Identifier: Apache-2.0
"""Steps any causal language model of transformers for the core's scheduler; other plugins may build on it.

``build_stepper`` chooses the fastest way that computes what the model computes. Importing this package imports torch
and transformers.
"""

from lmi_hf.stepping.build import StepperOptions, build_stepper, cache_token_bytes
from lmi_hf.stepping.packed import PackedStepper
from lmi_hf.stepping.serial import SerialStepper

__all__ = ["PackedStepper", "SerialStepper", "StepperOptions", "build_stepper", "cache_token_bytes"]
