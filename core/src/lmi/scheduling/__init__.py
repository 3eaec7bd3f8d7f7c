# SPDX-License-Identifier: Apache-2.0
"""Continuous batching and sampling for steppers: ``engine`` drives a stepper, ``scheduler`` plans its steps,
``sampling`` chooses the tokens.

Nothing is imported here, so that the planning parts can be used without torch.
"""
