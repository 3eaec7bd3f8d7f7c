# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract neuronx``, or pytest."""

from lmi.testing import BackendCase

# In 32 bits, since there are no log probabilities to compare ids by. The longest request has 160 tokens.
CASE = BackendCase(backend="neuronx", settings={"n_positions": 256, "dtype": "fp32"}, model="llama", devices="neuron:2")
