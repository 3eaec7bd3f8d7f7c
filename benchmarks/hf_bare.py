# SPDX-License-Identifier: Apache-2.0
"""A process for hf.py that measures what there is without a server, when told to.

    python benchmarks/hf_bare.py stock|loop --model FOLDER --dtype bf16 --threads 2

Reads a JSON line {"n": requests, "prompt_tokens": tokens} at a time from stdin and answers "rate TOKENS_PER_S": of
stock ``model.generate``, or of lmi_hf's stepper with an argmax behind it. Idle between the lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

MAX_SLOTS, CONTEXT_TOKENS = 32, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stock", "loop"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    rate = _rate_function(options.what, options.model, options.dtype, options.threads)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(f"rate {rate(task['n'], task['prompt_tokens'])}", flush=True)


def _rate_function(what: str, folder: str, dtype: str, n_threads: int) -> Callable[[int, int], float]:
    if what == "loop":  # the worker sets its threads so; stock transformers keeps OpenMP's defaults
        from lmi_hf.machine import prepare_threads

        prepare_threads(n_threads, "auto")
    import torch
    from transformers import AutoModelForCausalLM, logging

    from step_loop import generate_rate, loop_rate

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(n_threads)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=types[dtype])
    model.train(False)
    if what == "stock":
        return lambda n, prompt_tokens: generate_rate(model, n, prompt_tokens)
    from lmi_hf.stepping import StepperOptions, build_stepper

    sizes = StepperOptions(max_slots=MAX_SLOTS, max_context_tokens=CONTEXT_TOKENS)
    stepper = build_stepper(model, sizes)
    return lambda n, prompt_tokens: loop_rate(stepper, n, prompt_tokens)


if __name__ == "__main__":
    main()
