# SPDX-License-Identifier: Apache-2.0
"""One process a rank, under mpirun: a stepper that runs in step on all of them, or an answerer that all call alike."""
