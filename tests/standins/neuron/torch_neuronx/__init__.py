# SPDX-License-Identifier: Apache-2.0
"""What is imported before transformers-neuronx, and nothing more."""
