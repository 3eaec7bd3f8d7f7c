# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of the bare step loop of lmi_hf beside stock ``model.generate``, in one run, as ratios.

    python benchmarks/step_loop.py --model FOLDER --dtype bf16 --threads 2

No server and no scheduler: this is what the device gives, and what serving over HTTP is measured against.
"""

from __future__ import annotations

import argparse
import os
import time

from lmi.api import Decode, Prefill, StepBatch, Stepper

N_NEW_TOKENS = 64


def main() -> None:
    options = _arguments()
    from lmi_hf.machine import prepare_threads

    prepare_threads(options.threads, options.wait_policy)
    import torch
    from transformers import AutoModelForCausalLM, logging

    from lmi_hf.stepping import StepperOptions, build_stepper

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[options.dtype]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    stock = {}
    for n in options.batch:
        stock[n] = _best(options.repeats, lambda n=n: generate_rate(model, n, 7))
    long_stock = generate_rate(model, 8, 1024) if options.long else 0.0
    stepper = build_stepper(model, StepperOptions(max_slots=32, max_context_tokens=2048, prefill_chunk_tokens=512))
    print(f"{options.dtype}, {torch.get_num_threads()} threads, {N_NEW_TOKENS} new tokens, prompt of 7; tokens/s")
    print(f"{'batch':>6} {'generate':>9} {'step loop':>9} {'ratio':>6}")
    for n, rate in stock.items():
        own = _best(options.repeats, lambda n=n: loop_rate(stepper, n, 7))
        print(f"{n:>6} {rate:>9.1f} {own:>9.1f} {own / rate:>6.2f}", flush=True)
    if options.long:
        own = loop_rate(stepper, 8, 1024)
        print(
            f"prompt of 1,024, batch 8, prefill included: {long_stock:.1f} {own:.1f} {own / long_stock:.2f}", flush=True
        )
        print_step_costs(stepper)
        print_long_prefill(stepper, options.beside)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model in the pretrained format")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--wait-policy", choices=("active", "passive", "auto"), default="auto")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many runs counts")
    parser.add_argument("--beside", type=int, nargs="+", default=[16, 24, 32, 64], help="prompt tokens beside decodes")
    parser.add_argument("--no-long", dest="long", action="store_false", help="leave out what needs long prompts")
    return parser.parse_args()


def generate_rate(model: object, n: int, prompt_tokens: int) -> float:
    """New tokens a second of ``model.generate``, greedy, for n equal prompts."""
    import torch

    ids = torch.tensor([prompt(prompt_tokens)] * n)
    mask = torch.ones_like(ids)
    started = time.perf_counter()
    model.generate(  # type: ignore[attr-defined]
        ids,
        attention_mask=mask,
        max_new_tokens=N_NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return n * N_NEW_TOKENS / (time.perf_counter() - started)


def loop_rate(stepper: Stepper, n: int, prompt_tokens: int) -> float:
    """New tokens a second of the step loop, greedy, for n equal prompts read in chunks."""
    started = time.perf_counter()
    last = read_prompts(stepper, list(range(n)), prompt_tokens)
    for number in range(N_NEW_TOKENS - 1):
        last = decode(stepper, last, prompt_tokens + number)
    elapsed_s = time.perf_counter() - started
    for slot in range(n):
        stepper.release(slot)
    return n * N_NEW_TOKENS / elapsed_s


def read_prompts(stepper: Stepper, slots: list[int], prompt_tokens: int) -> dict[int, int]:
    """Read equal prompts, at most prefill_chunk_tokens a step; returns the first new id of each slot."""
    room = stepper.limits.prefill_chunk_tokens or prompt_tokens * len(slots)
    ids = prompt(prompt_tokens)
    first: dict[int, int] = {}
    waiting = [(slot, start) for slot in slots for start in range(0, prompt_tokens, room)]
    while waiting:
        prefills: list[Prefill] = []
        while waiting and sum(len(p.ids) for p in prefills) + len(ids[waiting[0][1] :][:room]) <= room:
            slot, start = waiting[0]
            if any(p.slot == slot for p in prefills):
                break
            waiting.pop(0)
            piece = ids[start : start + room]
            prefills.append(Prefill(slot=slot, ids=piece, start=start, n_logits=int(start + room >= prompt_tokens)))
        logits = stepper.step(StepBatch(prefills=prefills)).logits
        assert logits is not None
        chosen = iter(logits.argmax(-1).tolist())
        first.update({p.slot: next(chosen) for p in prefills if p.n_logits})
    return first


def decode(stepper: Stepper, last: dict[int, int], start: int) -> dict[int, int]:
    decodes = [Decode(slot=slot, ids=[token], start=start) for slot, token in last.items()]
    logits = stepper.step(StepBatch(decodes=decodes)).logits
    assert logits is not None
    return dict(zip(last, logits.argmax(-1).tolist(), strict=True))


def print_step_costs(stepper: Stepper) -> None:
    """Cost of one step of 32 slots against their live tokens, all slots alike and one slot long."""
    print("live tokens a slot: ms a step of 32 (and with one slot of that length among 31 of 64)")
    for length in (64, 256, 512, 1024):
        print(
            f"{length:>6}: {_step_ms(stepper, [length] * 32):>7.1f} {_step_ms(stepper, [64] * 31 + [length]):>7.1f}",
            flush=True,
        )


def print_long_prefill(stepper: Stepper, sizes: list[int]) -> None:
    """Rate of 31 short streams while a prompt of 1,800 tokens is read in pieces beside them."""
    ids = prompt(1800)
    print("prompt tokens beside 31 decodes: rate kept, seconds until the prompt is read")
    for size in sizes:
        read_prompts(stepper, list(range(31)), 64)
        pieces = [
            Prefill(slot=31, ids=ids[start : start + size], start=start, n_logits=0) for start in range(0, 1800, size)
        ]
        alone_s = beside_s = 0.0
        for number, piece in enumerate(pieces):
            decodes = [Decode(slot=slot, ids=[5], start=64 + 2 * number) for slot in range(31)]
            beside_s += _timed(stepper, StepBatch(prefills=[piece], decodes=decodes))
            decodes = [Decode(slot=slot, ids=[5], start=65 + 2 * number) for slot in range(31)]
            alone_s += _timed(stepper, StepBatch(decodes=decodes))
        print(f"{size:>6}: {alone_s / beside_s:>5.2f} {beside_s:>6.1f}", flush=True)
        for slot in range(32):
            stepper.release(slot)


def _timed(stepper: Stepper, batch: StepBatch) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    stepper.step(batch)
    return time.perf_counter() - started


def _step_ms(stepper: Stepper, lengths: list[int]) -> float:
    """Best milliseconds of one step in which every slot decodes behind so many tokens."""
    last = {}
    for slot, length in enumerate(lengths):
        last.update(read_prompts(stepper, [slot], length))
    best_s = float("inf")
    for number in range(6):
        decodes = [Decode(slot=s, ids=[t], start=lengths[s] + number) for s, t in last.items()]
        best_s = min(best_s, _timed(stepper, StepBatch(decodes=decodes)))
    for slot in range(len(lengths)):
        stepper.release(slot)
    return best_s * 1e3


def prompt(n_tokens: int) -> list[int]:
    return [10 + 7 * number % 250 for number in range(n_tokens)]


def _best(repeats: int, measure: object) -> float:
    return max(measure() for _ in range(repeats))  # type: ignore[operator]


if __name__ == "__main__":
    main()
