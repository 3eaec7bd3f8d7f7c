# SPDX-License-Identifier: Apache-2.0
"""How long a start takes from a build of `lmi compile`, beside one from the weights it was made of.

    python benchmarks/compiled_start.py [--ranks 2] [--rounds 3] [--hidden 2048] [--layers 16]

The one backend that builds something and runs without an accelerator is deepspeed: each rank reads its part of the
weights, instead of all of them. The model is a random Llama in bf16; both starts read from the same disk, in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import Lmi, exit_on_signals, machine, median
from ranks import write_model

_LOAD_LIMIT_S = 600.0


def main() -> None:
    options = _arguments()
    exit_on_signals()
    print(machine(), flush=True)
    flags = ["-o", "rolling_batch=deepspeed", "-o", f"tensor_parallel_degree={options.ranks}", "-o", "dtype=bf16"]
    with tempfile.TemporaryDirectory() as name:
        shape = {
            "hidden_size": options.hidden, "intermediate_size": 3 * options.hidden, "num_attention_heads": 16,
            "num_hidden_layers": options.layers,
        }  # fmt: skip
        model, built = write_model(Path(name) / "model", shape, dtype="bfloat16"), Path(name) / "built"
        n_bytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        print(f"weights: {n_bytes / 1e9:.2f} GB, {options.ranks} ranks", flush=True)
        began_s = time.monotonic()
        subprocess.run([sys.executable, "-m", "lmi", "compile", str(model), *flags, "--output", str(built)], check=True)
        print(f"lmi compile: {time.monotonic() - began_s:.1f} s", flush=True)
        found: dict[str, list[float]] = {"just in time": [], "compiled": []}
        for _ in range(options.rounds):
            for title, folder in zip(found, (model, built), strict=True):
                began_s = time.monotonic()
                with Lmi(str(folder), *flags, load_limit_s=_LOAD_LIMIT_S):
                    found[title].append(time.monotonic() - began_s)
        for title, seconds in found.items():
            print(f"{title}: ready after {median(seconds):.1f} s ({', '.join(f'{each:.1f}' for each in seconds)})")
        ratios = [one / other for one, other in zip(found["compiled"], found["just in time"], strict=True)]
        print(f"compiled / just in time: {median(ratios):.2f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=2048, help="width of the model")
    parser.add_argument("--layers", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
