# SPDX-License-Identifier: Apache-2.0
"""LMI's script for TensorRT-LLM, under the name that its users call."""

from lmi_trtllm.partition import main

main()
