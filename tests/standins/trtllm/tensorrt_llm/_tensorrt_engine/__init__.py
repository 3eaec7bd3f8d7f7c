# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the class that builds engines."""

from tensorrt_llm.llmapi.llm import _TrtLLM as LLM

__all__ = ["LLM"]
