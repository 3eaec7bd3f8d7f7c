# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorRT-LLM: its recorded signatures in front of a toy model. It is not TensorRT-LLM.

LMI_STANDIN_TRTLLM_VERSION says which version it claims to be.
"""

import os

from tensorrt_llm.llmapi.llm import _TorchLLM as LLM
from tensorrt_llm.sampling_params import SamplingParams

__version__ = os.environ.get("LMI_STANDIN_TRTLLM_VERSION", "1.2.1")
__all__ = ["LLM", "SamplingParams"]
