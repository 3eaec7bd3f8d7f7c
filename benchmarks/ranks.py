# SPDX-License-Identifier: Apache-2.0
"""What it costs to run one process a rank: a step's message, tokens a second and the time to start.

    python benchmarks/ranks.py [--ranks 2] [--at-once 1 8] [--rounds 3] [--backends lmi-dist deepspeed]

The message is measured alone, between ranks that compute nothing. Tokens a second are those of a random Llama with
eight heads in fp32, behind HTTP, beside the backend hf on as many threads as there are ranks. Each server is started
once; they take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mixed_client
from lmi.workers.mpi.launch import MpiProgram, mpirun_of
from mixed_load import Ask
from processes import Lmi, exit_on_signals, machine, median, verdict

BROADCAST_BAR_US = 300.0
_N_STEPS, _N_SLOTS = 2000, 32
_SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
_LOAD_LIMIT_S = 300.0
_WORDS = ["in", "the", "beginning", "was", "a", "word", "and", "with", "them", "until", "they", "went", "again"]


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] == "--rank":
        _measure_messages()
        return
    options = _arguments()
    exit_on_signals()
    print(machine(), flush=True)
    _print_messages(options.ranks)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = write_model(Path(name), _SHAPE)
        field = {"hf, 1 process": ("rolling_batch=hf", f"n_threads={options.ranks}")}
        for backend in options.backends:
            for n_ranks in (1, options.ranks):
                field[f"{backend}, {n_ranks}"] = (f"rolling_batch={backend}", f"tensor_parallel_degree={n_ranks}")
        servers = {}
        for title, given in field.items():
            started_s = time.monotonic()
            flags = [word for flag in (*given, "dtype=fp32", "max_rolling_batch_size=32") for word in ("-o", flag)]
            servers[title] = running.enter_context(Lmi(str(folder), *flags, load_limit_s=_LOAD_LIMIT_S))
            print(f"{title}: ready after {time.monotonic() - started_s:.1f} s", flush=True)
        _print_rates(servers, options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--at-once", type=int, nargs="+", default=(1, 8), metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backends", nargs="+", default=("lmi-dist", "deepspeed"))
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------- one message


def _print_messages(n_ranks: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        program = MpiProgram(sys.executable, n_ranks)
        environ = program.environ(dict(os.environ), Path(name))
        command = [mpirun_of(sys.executable, n_ranks, environ), "-n", str(n_ranks), "--bind-to", "none"]
        command += ["--oversubscribe", sys.executable, __file__, "--rank"]
        found = json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout)
    said = verdict(found["sent_us"], BROADCAST_BAR_US, at_most=True)
    print(f"a step of {_N_SLOTS} requests to {n_ranks - 1} other ranks: rank 0 is held for {said} us", flush=True)
    print(f"  until all have it and said so: median {found['heard_us']:.0f} us, p99 {found['heard_p99_us']:.0f} us")


def _measure_messages() -> None:
    """One rank of those that send and hear messages."""
    from lmi.api import Decode, StepBatch, StepOutput, Stepper, StepperLimits
    from lmi.workers.mpi.group import RankGroup
    from lmi.workers.mpi.stepper import MpiStepper, follow

    class Nothing(Stepper):
        limits = StepperLimits(
            max_slots=_N_SLOTS,
            max_context_tokens=4096,
            kv_capacity_tokens=1 << 20,
            vocab_size=8,
            samples_on_device=True,
        )

        def step(self, batch: StepBatch) -> StepOutput:
            group.gather(b"")
            return StepOutput(ids=[])

        def truncate(self, slot: int, n_tokens: int) -> None: ...
        def release(self, slot: int) -> None: ...
        def close(self) -> None: ...

    group = RankGroup()
    if group.rank:
        follow([Nothing()], group)
        group.finish()
        return
    held_us, heard_us = [], []
    send = group.broadcast

    def timed(message: bytes) -> None:
        began_s = time.perf_counter()
        send(message)
        held_us.append((time.perf_counter() - began_s) * 1e6)

    group.broadcast = timed  # type: ignore[method-assign]
    stepper = MpiStepper(Nothing(), group, Nothing.limits, on_close=lambda: None)
    for number in range(_N_STEPS):
        batch = StepBatch(decodes=[Decode(slot=slot, ids=[7], start=number) for slot in range(_N_SLOTS)])
        began_s = time.perf_counter()
        stepper.step(batch)
        heard_us.append((time.perf_counter() - began_s) * 1e6)
        time.sleep(0.001)  # as sampling takes
    stepper.close()
    p99 = statistics.quantiles(heard_us, n=100)[98]
    print(json.dumps({"sent_us": median(held_us), "heard_us": median(heard_us), "heard_p99_us": p99}))


# ----------------------------------------------------------------------------------------------------------- tokens


def write_model(folder: Path, shape: dict[str, int], dtype: str = "float32") -> Path:
    """Write a Llama with random weights, and return its folder.

    Args:
        folder: made if it does not exist.
        shape: further fields of its configuration.
        dtype: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lmi.testing.tiny_tokenizer import write_tokenizer

    write_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=4096, num_key_value_heads=4, max_position_embeddings=1024, **shape)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _asks(n: int) -> list[Ask]:
    chosen = random.Random(0)
    return [
        Ask(prompt=" ".join(chosen.choices(_WORDS, k=8 + number % 5)), ids=[], n_new_tokens=64) for number in range(n)
    ]


def _print_rates(servers: dict[str, Lmi], options: argparse.Namespace) -> None:
    for n in options.at_once:
        rates: dict[str, list[float]] = {title: [] for title in servers}
        for _ in range(options.rounds):
            for title, server in servers.items():
                timing = mixed_client.run(f"{server.url}/invocations", _asks(2 * n), n)
                rates[title].append(timing.tokens_per_s)
        first = next(iter(rates.values()))
        print(f"\n{n} at a time: tokens/s, median of {options.rounds}")
        for title, found in rates.items():
            ratio = median([one / other for one, other in zip(found, first, strict=True)])
            print(f"  {title:16} {median(found):8.1f}   {ratio:.2f} of one process", flush=True)


if __name__ == "__main__":
    main()
