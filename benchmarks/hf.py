# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of ``lmi serve`` with the hf backend over HTTP, beside stock transformers and the bare step loop.

    python benchmarks/hf.py [--model FOLDER] [--dtype bf16] [--threads 2] [--rounds 3] [-o key=value]

Three things take turns on the same cores, the others idle meanwhile: stock ``model.generate``, the step loop of
lmi_hf's stepper with no server and no scheduler (step_loop.py), and a server that streams to a client in a process of
its own. Ratios are taken round by round; their median counts. Also: prompts of 1,024 tokens, and 31 short streams
beside a prompt of 1,800.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

import load
from hf_bare import CONTEXT_TOKENS, MAX_SLOTS
from processes import Lmi, Noise, demo_model, exit_on_signals, machine, median, quietest, verdict
from step_loop import N_NEW_TOKENS

LOOP_BAR, STOCK_BAR, BESIDE_BAR = 0.9, 1.2, 0.7
_BATCHES = (1, 8, 32)
_SHORT_TOKENS, _LONG_TOKENS, _LONGEST_TOKENS = 7, 1024, 1800
_LONG_BATCH = 8
_WINDOW_TOKENS = 24
_WORDS = (
    "time people way year day world life hand part child eye place work week case point company number group problem"
    " fact water room mother area money story book word house side kind head power hour game line end member law"
)


class Bare:
    """A process that measures a rate without a server (hf_bare.py)."""

    def __init__(self, what: str, options: argparse.Namespace) -> None:
        command = [sys.executable, str(Path(__file__).with_name("hf_bare.py")), what]
        command += ["--model", options.model, "--dtype", options.dtype, "--threads", str(options.threads)]
        self._what = what
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer("ready")

    def rate(self, n: int, prompt_tokens: int) -> float:
        """New tokens a second for n prompts at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"n": n, "prompt_tokens": prompt_tokens}) + "\n")
        self._process.stdin.flush()
        return float(self._answer("rate"))

    def _answer(self, kind: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == kind:
                return rest
        raise SystemExit(f"{self._what} ended with exit code {self._process.wait()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of one case: tokens a second of all three, and the client's view of the server."""

    stock: float
    loop: float
    server: load.Result
    others: float


class Bench:
    """The three contestants, loaded and warm; a context manager.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
        self._random = random.Random(0)
        self._patience_s = options.patience
        sizes = (f"max_rolling_batch_size={MAX_SLOTS}", f"max_model_len={CONTEXT_TOKENS}")
        given = ("rolling_batch=hf", f"dtype={options.dtype}", f"n_threads={options.threads}", *sizes, *options.o)
        self._bare: list[Bare] = []
        self._lmi = Lmi(options.model, *(word for option in given for word in ("-o", option)))
        try:
            self._bare = [Bare(what, options) for what in ("stock", "loop")]
            self.round(8, _SHORT_TOKENS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for bare in self._bare:
            bare.close()
        self._lmi.stop()

    def round(self, n: int, prompt_tokens: int) -> Round:
        """All three, one after the other, with n requests at once."""
        return quietest(lambda: self._round(n, prompt_tokens), lambda found: found.others, self._patience_s)

    def _round(self, n: int, prompt_tokens: int) -> Round:
        noise = Noise()
        stock, loop = (bare.rate(n, prompt_tokens) for bare in self._bare)
        server = load.run(url=self._url, prompts=self.prompts(n, prompt_tokens), max_new_tokens=N_NEW_TOKENS)
        return Round(stock=stock, loop=loop, server=server, others=noise.share())

    def beside(self) -> tuple[load.Result, float]:
        """31 short streams, with a long prompt for a part of their time; and the share of other programs."""
        return quietest(self._beside, lambda found: found[1], self._patience_s)

    def _beside(self) -> tuple[load.Result, float]:
        noise = Noise()
        prompts = self.prompts(MAX_SLOTS - 1, _SHORT_TOKENS)
        (long_prompt,) = self.prompts(1, _LONGEST_TOKENS)
        task = {"prompts": prompts, "long_prompt": long_prompt, "n_window_tokens": _WINDOW_TOKENS}
        return load.run(url=self._url, **task), noise.share()

    @property
    def _url(self) -> str:
        return f"{self._lmi.url}/invocations"

    def prompts(self, n: int, n_tokens: int) -> list[str]:
        """Distinct texts of exactly so many tokens, special ones included."""
        n_special = len(self._tokenizer.encode("").ids)
        words = [f" {word}" for word in _WORDS.split()]
        words = [word for word in words if len(self._tokenizer.encode(word).ids) == 1 + n_special]
        texts = ["".join(self._random.choices(words, k=n_tokens - n_special)) for _ in range(n)]
        lengths = {len(self._tokenizer.encode(text).ids) for text in texts}
        if lengths != {n_tokens}:
            raise SystemExit(f"this tokenizer makes {sorted(lengths)} tokens of {n_tokens} words")
        return texts


def main() -> None:
    options = _arguments()
    exit_on_signals()
    print(machine(), flush=True)
    with Bench(options) as bench:
        print(
            f"{options.dtype}, {options.threads} threads, {N_NEW_TOKENS} new tokens a request; tokens/s with prompts"
            f" read included,\nmedians of {options.rounds} rounds (LMI: lowest to highest); ratios are medians of the"
            " rounds' ratios"
        )
        _print_rates(bench, _BATCHES, _SHORT_TOKENS, options.rounds)
        if options.long:
            _print_rates(bench, (_LONG_BATCH,), _LONG_TOKENS, options.rounds)
            _print_beside(bench, options.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model in the pretrained format; default: the demo model")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=0, metavar="S", help="wait so long for an idle machine")
    parser.add_argument("--no-long", dest="long", action="store_false", help="leave out what needs long prompts")
    parser.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="further option of lmi serve")
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options.threads = options.threads or n_cores
    options.model = options.model or demo_model()
    return options


# ------------------------------------------------------------------------------------------------------------ printing


def _print_rates(bench: Bench, batches: Sequence[int], prompt_tokens: int, n_rounds: int) -> None:
    print(f"\nprompts of {prompt_tokens:,} tokens")
    print(
        f"{'requests':>8} {'generate':>9} {'step loop':>9} {'LMI':>8} {'':18} {'first token':>12} {'client CPU':>10}"
        f" {'others':>7}"
    )
    runs: dict[int, list[Round]] = {n: [] for n in batches}
    for _ in range(n_rounds):
        for n in batches:
            runs[n].append(bench.round(n, prompt_tokens))
    for n, rounds in runs.items():
        rates = [each.server.tokens_per_s for each in rounds]
        first_s = median([each.server.first_token_s for each in rounds])
        client = median([each.server.client_cpu_share for each in rounds])
        others = max(each.others for each in rounds)
        print(
            f"{n:>8} {median([each.stock for each in rounds]):>9.1f} {median([each.loop for each in rounds]):>9.1f}"
            f" {median(rates):>8.1f} {f'({min(rates):.1f} to {max(rates):.1f})':18} {first_s * 1e3:>9.0f} ms"
            f" {client:>9.1%} {others:>7.0%}"
        )
    for n, rounds in runs.items():
        loop = median([each.server.tokens_per_s / each.loop for each in rounds])
        stock = median([each.server.tokens_per_s / each.stock for each in rounds])
        is_short = prompt_tokens == _SHORT_TOKENS
        of_loop = verdict(loop, LOOP_BAR) if is_short and n in (1, 32) else f"{loop:.2f}"
        of_stock = verdict(stock, STOCK_BAR) if is_short and n == 32 else f"{stock:.2f}"
        print(f"  {n:>2}: LMI / step loop {of_loop}, LMI / generate {of_stock}", flush=True)


def _print_beside(bench: Bench, n_rounds: int) -> None:
    results, others = zip(*(bench.beside() for _ in range(n_rounds)), strict=True)
    kept = median([each.beside_tokens_per_s / each.tokens_per_s for each in results])
    alone = median([each.tokens_per_s for each in results])
    beside = median([each.beside_tokens_per_s for each in results])
    first_s = median([each.first_token_s for each in results])
    print(f"\n{MAX_SLOTS - 1} short streams beside a prompt of {_LONGEST_TOKENS:,} tokens")
    print(f"  alone {alone:.1f} tokens/s, while it is read {beside:.1f}: {verdict(kept, BESIDE_BAR)} of their rate")
    print(f"  first token of the long prompt after {first_s:.1f} s; others {max(others):.0%}", flush=True)


if __name__ == "__main__":
    main()
