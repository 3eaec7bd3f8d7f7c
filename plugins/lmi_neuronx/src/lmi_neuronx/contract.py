# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract neuronx``, or pytest."""

from lmi.testing import BackendCase

# Compiled arithmetic in 16 bits: ids are compared by their log probabilities. The longest request has 160 tokens.
CASE = BackendCase(backend="neuronx", settings={"n_positions": 256}, model="llama", is_exact=False, devices="neuron:2")
