# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract trtllm``, or pytest."""

from typing import Any

from lmi.testing import BackendCase


def _end_executor(engine: Any) -> None:
    """The executor ends behind the engine's back, and tells no request of it."""
    engine.llm._executor.shutdown()


CASE = BackendCase(
    backend="trtllm",
    # A prompt may have max_input_len ids, so that one which fills the context is let in.
    settings={"dtype": "fp16", "max_input_len": 1024, "max_output_len": 2, "enable_lora": True},
    model="llama",
    is_exact=False,
    devices="cuda:1",
    kill_engine=_end_executor,
)
