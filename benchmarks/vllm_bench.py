# SPDX-License-Identifier: Apache-2.0
"""Tokens a second, times and CPU time of ``lmi serve`` with vLLM, beside vLLM's engine alone and vLLM's own server.

    python benchmarks/vllm_bench.py [--vllm-python PYTHON] [--model FOLDER] [--compiled] [--hf] [--rounds 3]

All have the same model, prompts, engine arguments and threads; they take turns, the others idle meanwhile, and each is
started once. Two loads: requests of 64 to 256 new tokens, so many at a time until all are answered; and so many
requests of 64 new tokens at once. Ratios are taken round by round; their median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

import vllm_contestants as contestants
from mixed_load import Ask, Timing
from processes import Noise, demo_model, exit_on_signals, machine, median, quietest, verdict
from vllm_contestants import ROLES, Contestant, Setup

BARE_BAR, SERVER_BAR, NO_WORSE_BAR, CPU_BAR = 0.95, 1.05, 1.0, 0.5
_BAR_AT = 32
_AT_ONCE = (1, 8, 32, 64)
_N_EACH = 2
"""Requests of each client of the mixed load; one alone gets one more, for its percentiles."""
_PLAIN_TOKENS, _PLAIN_WORDS = 64, 7
_WORDS = (16, 96)
"""Of a mixed prompt; fewer than a block of vLLM's cache on CPU, so that no prompt is found there a second time."""
_SETTLE_S = 1.0
_IDLE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Run:
    """One contestant once: what its clients heard, and what it cost.

    Args:
        timing: of the clients.
        cpu_s: seconds of each role for 1,000 tokens.
        others: share of the machine that programs outside the benchmark took.
    """

    timing: Timing
    cpu_s: dict[str, float]
    others: float

    @property
    def face_cpu_s(self) -> float:
        """Of all that is neither scheduler nor model."""
        return self.cpu_s["server"] + self.cpu_s["worker"]


Case = tuple[str, int]
"""A load, and how many at a time."""
Runs = dict[tuple[Case, str], list[Run]]
"""By case and contestant, a run for each round."""


def main() -> None:
    options = _arguments()
    exit_on_signals()
    print(machine(), flush=True)
    setup = Setup(model=options.model, python=options.vllm_python, bind=options.bind, is_compiled=options.compiled)
    with contextlib.ExitStack() as running:
        field = _start(setup, running, with_hf=options.hf)
        prompts = Prompts(options.model)
        for each in field:
            each.measure(prompts.mixed(8, (16, 16)), 8)
        _print_setup(setup, field)
        runs: Runs = defaultdict(list)
        try:
            _rounds(field, prompts, options, runs)
        except (KeyboardInterrupt, SystemExit):
            print("interrupted; what was measured until then:", flush=True)
    for case in dict.fromkeys(case for case, _ in runs):
        _print_case(case, [each.name for each in field], runs)
    for name in ("mixed", "plain"):
        _print_ratios(name, runs, options.at_once)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    python = os.environ.get("LMI_VLLM_PYTHON") or ".venv-vllm/bin/python"
    parser.add_argument("--vllm-python", default=python, help="Python of vLLM's environment (%(default)s)")
    parser.add_argument("--model", help="folder of a model in the pretrained format; default: the demo model")
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the model")
    parser.add_argument("--bind", default="auto", help="VLLM_CPU_OMP_THREADS_BIND of all (%(default)s)")
    parser.add_argument("--hf", action="store_true", help="also lmi serve with the hf backend")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=_AT_ONCE, metavar="N")
    parser.add_argument("--tokens", type=int, nargs=2, default=(64, 256), metavar=("LOW", "HIGH"), help="mixed load")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave out the plain load")
    parser.add_argument("--patience", type=float, default=0, metavar="S", help="wait so long for an idle machine")
    options = parser.parse_args()
    if not Path(options.vllm_python).exists():
        parser.error(f"{options.vllm_python} is not there: name the Python of vLLM's environment with --vllm-python")
    options.model = options.model or demo_model()
    return options


class Prompts:
    """Texts of random words of a model's vocabulary; the same in every run.

    Args:
        model: folder with a tokenizer.json.
    """

    def __init__(self, model: str) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        words = (re.fullmatch(r"[Ġ▁]([a-z]{3,})", token) for token in self._tokenizer.get_vocab())
        self._words = sorted(word[1] for word in words if word)
        self._random = random.Random(0)

    def mixed(self, n: int, new_tokens: tuple[int, int]) -> list[Ask]:
        """Requests whose lengths differ."""
        draw = self._random.randint
        return [self._ask(draw(*_WORDS), draw(*new_tokens)) for _ in range(n)]

    def plain(self, n: int) -> list[Ask]:
        """Requests of one short length."""
        return [self._ask(_PLAIN_WORDS, _PLAIN_TOKENS) for _ in range(n)]

    def _ask(self, n_words: int, n_new_tokens: int) -> Ask:
        text = " " + " ".join(self._random.choices(self._words, k=n_words))
        return Ask(prompt=text, ids=self._tokenizer.encode(text).ids, n_new_tokens=n_new_tokens)


# ----------------------------------------------------------------------------------------------------------- measuring


def _start(setup: Setup, running: contextlib.ExitStack, *, with_hf: bool) -> list[Contestant]:
    """All contestants, loaded one after the other."""
    starts: list[Callable[[Setup], Contestant | list[Contestant]]]
    starts = [contestants.bare, contestants.lmi, contestants.openai, *([contestants.lmi_hf] if with_hf else [])]
    field: list[Contestant] = []
    for start in starts:
        started_s = time.monotonic()
        found = start(setup)
        new = found if isinstance(found, list) else [found]
        running.enter_context(new[0].program)
        print(f"{new[0].name}: ready after {time.monotonic() - started_s:.0f} s", flush=True)
        field += new
    return field


def _rounds(field: Sequence[Contestant], prompts: Prompts, options: argparse.Namespace, runs: Runs) -> None:
    """Every case in every round; within one, all contestants get the same requests, each round in another order."""
    names = ("mixed", "plain") if options.plain else ("mixed",)
    for index in range(options.rounds):
        for name in names:
            for n in options.at_once:
                n_asks = n * _N_EACH + (n == 1)
                asks = prompts.mixed(n_asks, tuple(options.tokens)) if name == "mixed" else prompts.plain(n)
                for place in range(len(field)):
                    each = field[(place + index) % len(field)]
                    once = quietest(lambda: _run(each, asks, n), lambda run: run.others, options.patience)  # noqa: B023
                    runs[(name, n), each.name].append(once)
                _print_case((name, n), [each.name for each in field], runs)
        print(f"round {index + 1} of {options.rounds} is done", flush=True)


def _run(each: Contestant, asks: Sequence[Ask], n_at_once: int) -> Run:
    time.sleep(_SETTLE_S)  # whoever had the last turn goes on waiting busily for a moment
    noise, before_s = Noise(), each.cpu_s()
    timing = each.measure(asks, n_at_once)
    after_s, n_tokens = each.cpu_s(), sum(ask.n_new_tokens for ask in asks)
    used_s = {role: (after_s[role] - before_s[role]) / n_tokens * 1e3 for role in ROLES}
    return Run(timing=timing, cpu_s=used_s, others=noise.share())


# ------------------------------------------------------------------------------------------------------------ printing


def _print_setup(setup: Setup, field: Sequence[Contestant]) -> None:
    given = ", ".join(f"{name}={value}" for name, value in setup.arguments().items())
    print(f"all engines: {given}")
    cores = {each.name: each.cores() for each in field if each.cores()}
    print(f"cores that compute, with VLLM_CPU_OMP_THREADS_BIND={setup.bind}: {cores}")
    first = field[0].engine_config()
    for each in field[1:]:
        config = each.engine_config()
        if config and each.program is not field[0].program:
            differing = [key for key in sorted({*config, *first}) if config.get(key) != first.get(key)]
            said = "; ".join(f"{key}: {config.get(key)}, not {first.get(key)}" for key in differing)
            print(f"configuration of {each.name}'s engine, beside {field[0].name}'s: {said or 'the same'}")
    _print_idle(field)


def _print_idle(field: Sequence[Contestant]) -> None:
    """Who takes a part of the machine from those who have their turn."""
    time.sleep(_SETTLE_S)
    before_s, started_s = [sum(each.cpu_s().values()) for each in field], time.monotonic()
    time.sleep(2 * _SETTLE_S)
    wall_s = time.monotonic() - started_s
    for each, used_s in zip(field, before_s, strict=True):
        share = (sum(each.cpu_s().values()) - used_s) / wall_s
        if share > _IDLE_SHARE:
            print(f"{each.name} uses {share:.0%} of a core while it idles: the others have less", flush=True)


def _print_case(case: Case, names: Sequence[str], runs: Runs) -> None:
    load, n = case
    print(f"\n{load} load, {n} at a time; medians")
    print(
        f"{'':14} {'tokens/s':>8} {'first token ms':>15} {'between tokens ms':>17}  CPU s for 1,000 tokens"
        f"{'':30} {'tokens/':>7}\n{'':14} {'':>8} {'p50':>7} {'p99':>7} {'p50':>8} {'p99':>8} "
        + "".join(f" {role:>8}" for role in (*ROLES, "client"))
        + f" {'others':>7} {'arrival':>7}"
    )
    for name in names:
        found = runs[case, name]
        if not found:
            continue
        times = [each.timing for each in found]
        rate = median([each.tokens_per_s for each in times])
        first = [median([getattr(each, key) for each in times]) * 1e3 for key in ("first_p50_s", "first_p99_s")]
        gaps = [median([getattr(each, key) for each in times]) * 1e3 for key in ("gap_p50_s", "gap_p99_s")]
        cpu = [median([each.cpu_s[role] for each in found]) for role in ROLES]
        client = median([each.client_cpu_share / each.tokens_per_s * 1e3 for each in times])
        together = median([each.tokens_per_arrival for each in times])
        print(
            f"{name:14} {rate:>8.1f} {first[0]:>7.0f} {first[1]:>7.0f} {gaps[0]:>8.1f} {gaps[1]:>8.1f} "
            + "".join(f" {value:>8.3f}" for value in (*cpu, client))
            + f" {max(each.others for each in found):>7.0%} {together:>7.2f}",
            flush=True,
        )


def _print_ratios(load: str, runs: Runs, at_once: Sequence[int]) -> None:
    for n in at_once:
        case, judged = (load, n), load == "mixed" and n == _BAR_AT
        if (case, "LMI") not in runs:
            continue
        print(f"\n{load} load, {n} at a time: medians of the rounds' ratios")
        _print_ratio(runs, case, "tokens/s, LMI / bare", "bare", _rate, BARE_BAR, judged=judged)
        _print_ratio(runs, case, "tokens/s, LMI / bare+logprobs", "bare+logprobs", _rate)
        _print_ratio(runs, case, "tokens/s, LMI / vllm serve", "vllm serve", _rate, SERVER_BAR, judged=judged)
        _print_ratio(runs, case, "tokens/s, LMI / LMI hf", "LMI hf", _rate)
        for what, value in (
            ("first token, p50", lambda run: run.timing.first_p50_s),
            ("first token, p99", lambda run: run.timing.first_p99_s),
            ("between tokens, p99", lambda run: run.timing.gap_p99_s),
        ):
            title = f"{what}, LMI / vllm serve"
            _print_ratio(runs, case, title, "vllm serve", value, NO_WORSE_BAR, judged=judged, at_most=True)
        title = "CPU a token of server and worker, LMI / vllm serve's"
        _print_ratio(runs, case, title, "vllm serve", lambda run: run.face_cpu_s, CPU_BAR, judged=judged, at_most=True)


def _rate(run: Run) -> float:
    return run.timing.tokens_per_s


def _print_ratio(
    runs: Runs,
    case: Case,
    title: str,
    other: str,
    value: Callable[[Run], float],
    bar: float | None = None,
    *,
    judged: bool = False,
    at_most: bool = False,
) -> None:
    """LMI's value over another's; nothing where the other did not run."""
    if (case, other) not in runs:
        return
    pairs = zip(runs[case, "LMI"], runs[case, other], strict=False)  # one may lack the last round
    ratios = [value(own) / value(theirs) for own, theirs in pairs]
    middle = median(ratios)
    said = verdict(middle, bar, at_most=at_most) if judged and bar is not None else f"{middle:.2f}"
    print(f"  {title}: {said}, rounds {min(ratios):.2f} to {max(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
