# SPDX-License-Identifier: Apache-2.0
"""Amazon SageMaker's runtime on this machine, in front of a container's port.

``emulator`` runs it; ``app`` is what clients see; ``endpoint``, ``container`` and ``process`` are what is behind it;
``violations`` keeps what breaks the contract.
"""
