# SPDX-License-Identifier: Apache-2.0
"""One process a rank: a stepper that runs in step on all of them, under mpirun."""
