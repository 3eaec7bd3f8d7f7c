# SPDX-License-Identifier: Apache-2.0
"""``python -m lmi_trtllm.partition``: ``lmi partition`` by the arguments that LMI's script for TensorRT-LLM took.

A container that is to take that script's command line as it is has a file of the script's name that calls ``main``.

Source: DJL Serving 0.27, ``serving/docker/partition/trt_llm_partition.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def command(arguments: Sequence[str]) -> list[str]:
    """The same as arguments of ``lmi``.

    Args:
        arguments: of the script.
    Raises:
        SystemExit: they are none of its; with its usage.
    """
    parser = argparse.ArgumentParser(
        prog="trt_llm_partition.py", allow_abbrev=False,
        description="Build engines of TensorRT-LLM ahead of time; serving.properties and OPTION_* say of what.",
    )  # fmt: skip
    parser.add_argument("--properties_dir", required=True, help="may hold serving.properties; need not be there")
    parser.add_argument("--trt_llm_model_repo", required=True, help="where the engines shall be, or s3://...")
    parser.add_argument("--tensor_parallel_degree", required=True, type=int, help="GPUs of one copy")
    parser.add_argument("--pipeline_parallel_degree", type=int, help="stages of one copy")
    parser.add_argument("--model_path", help="the model, where it is here already")
    given = parser.parse_args(arguments)
    flags = {
        "--model-dir": given.properties_dir,
        "--model-id": given.model_path,
        "--save-mp-checkpoint-path": given.trt_llm_model_repo,
        "--tensor-parallel-degree": given.tensor_parallel_degree,
        "--pipeline-parallel-degree": given.pipeline_parallel_degree,
    }
    pairs = [part for name, value in flags.items() if value is not None for part in (name, str(value))]
    return ["partition", *pairs, "-o", "rolling_batch=trtllm"]


def main() -> None:
    """Become ``lmi partition``."""
    words = [sys.executable, "-m", "lmi", *command(sys.argv[1:])]
    os.execv(words[0], words)  # noqa: S606 - this Python, and arguments that were read above


if __name__ == "__main__":
    main()
