# SPDX-License-Identifier: Apache-2.0
"""What is behind the recorded names of the stand-in: a toy model, a loop that steps, and faults on request."""
