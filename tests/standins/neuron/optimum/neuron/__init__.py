# SPDX-License-Identifier: Apache-2.0
"""optimum-neuron as a driver sees it; see the README beside this package."""

from optimum.neuron.models.inference.modeling_utils import NeuronModelForCausalLM

__all__ = ["NeuronModelForCausalLM"]
