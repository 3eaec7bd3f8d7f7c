# SPDX-License-Identifier: Apache-2.0
"""What LoRA adapters cost a step of lmi_hf: beside steps without any, in turns, in one run.

    make bench-adapters

No server and no scheduler. The adapters have random matrices for every linear layer of the demo model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from lmi.api import Decode, Prefill, StepBatch, Stepper
from lmi_hf.machine import prepare_threads
from lmi_hf.stepping import StepperOptions, build_stepper
from processes import demo_model, machine

N_PROMPT = 256
CASES = {
    "8 requests, none names one, adapters on": (8, [""]),
    "8 requests, all name one": (8, ["a"]),
    "8 requests, half of them name one": (8, ["a", ""]),
    "8 requests, four adapters": (8, ["a", "b", "c", "d"]),
    "1 request names one": (1, ["a"]),
}
"""What a step has -> requests, and the adapters they name in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a model in the pretrained format")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    options = parser.parse_args()
    prepare_threads(options.threads, "auto")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = options.model or str(demo_model())
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    plain, adapted = (_stepper(folder, dtype, takes_adapters=takes) for takes in (False, True))
    with tempfile.TemporaryDirectory() as scratch:
        load_ms = [_load(adapted, folder, Path(scratch) / name, name, options.rank) for name in "abcd"]
    print(f"{machine()}, {options.dtype}, rank {options.rank}; median of {options.rounds} rounds in turns")
    print(f"one adapter is read and ready in {statistics.median(load_ms):.0f} ms")
    for title, (n, adapters) in CASES.items():
        names = [adapters[slot % len(adapters)] for slot in range(n)]
        decodes: list[float] = []
        prefills: list[float] = []
        for _ in range(options.rounds):
            (read, step), (read_too, step_too) = _costs(plain, [""] * n), _costs(adapted, names)
            prefills.append(read_too / read)
            decodes.append(step_too / step)
        print(
            f"{title}: a decode takes {statistics.median(decodes):.2f} times as long, "
            f"a prompt of {N_PROMPT} tokens {statistics.median(prefills):.2f}",
            flush=True,
        )


def _stepper(folder: str, dtype: torch.dtype, *, takes_adapters: bool) -> Stepper:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    sizes = StepperOptions(max_slots=8, max_context_tokens=1024, takes_adapters=takes_adapters)
    return build_stepper(model, sizes)


def _load(stepper: Any, folder: str, place: Path, name: str, rank: int) -> float:
    """Milliseconds until an adapter that was written now is ready."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(str(place))
    started = time.perf_counter()
    stepper.load_adapter(name, str(place))
    return 1e3 * (time.perf_counter() - started)


def _costs(stepper: Stepper, adapters: list[str]) -> tuple[float, float]:
    """Seconds of a prompt for the first request, and of a decode for all."""
    ids = [10 + 7 * number % 250 for number in range(N_PROMPT)]
    reading = [
        _timed(stepper, StepBatch(prefills=[Prefill(slot=slot, ids=ids, start=0, n_logits=1, adapter=name)]))
        for slot, name in enumerate(adapters)
    ]
    steps = []
    for number in range(8):
        decodes = [Decode(slot=s, ids=[5], start=N_PROMPT + number, adapter=a) for s, a in enumerate(adapters)]
        steps.append(_timed(stepper, StepBatch(decodes=decodes)))
    for slot in range(len(adapters)):
        stepper.release(slot)
    return reading[0], min(steps)


def _timed(stepper: Stepper, batch: StepBatch) -> float:
    started = time.perf_counter()
    stepper.step(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
