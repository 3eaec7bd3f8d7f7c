# SPDX-License-Identifier: Apache-2.0
"""Tools that a model may call: their definitions in a request, and their calls in the model's text."""
