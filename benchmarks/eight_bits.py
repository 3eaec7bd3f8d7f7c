# SPDX-License-Identifier: Apache-2.0
"""What 8-bit layers of the backend deepspeed change: how near the answers stay, how much memory and time they take.

    python benchmarks/eight_bits.py [--model FOLDER] [--text FILE] [--dtypes fp32 bf16] [--tokens 1024]

Distance is the mean Kullback-Leibler divergence, in nats a token, of the next-token distributions from those of the
whole weights in fp32, over a text that no calibration has seen; "same" is how often the likeliest token is the same.
One process, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lmi.api import ArtifactFormat, ModelArtifacts, Ranks
from lmi_deepspeed.config import DeepSpeedConfig
from lmi_deepspeed.engine import load_model
from processes import demo_model, machine

_HERE = Path(__file__).parent
_METHODS = (None, "dynamic_int8", "smoothquant")
_N_TIMES = 7


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    ids = _ids(options)
    expected: torch.Tensor | None = None
    print(f"{'weights':24} {'nats/token':>10} {'same':>7} {'perplexity':>10} {'MB':>6} {'step of 1':>10} {'of 16':>9}")
    for dtype in options.dtypes:
        for method in _METHODS:
            if method == "smoothquant" and dtype == "bf16":
                continue
            model = _load(options.model, dtype, method)
            found = _log_likelihoods(model, ids)
            expected = found if expected is None else expected
            distance = torch.nn.functional.kl_div(found, expected, log_target=True, reduction="sum") / len(ids)
            same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
            perplexity = (-found[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean()).exp()
            times = [_step_ms(model, n) for n in (1, 16)]
            title = f"{dtype}, {method or 'whole'}"
            print(
                f"{title:24} {distance:10.5f} {same:7.1%} {perplexity:10.2f} {_megabytes(model):6.0f} "
                f"{times[0]:7.0f} ms {times[1]:6.0f} ms",
                flush=True,
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder; default: the demo model")
    parser.add_argument("--text", type=Path, default=_HERE.parent / "README.md")
    parser.add_argument("--dtypes", nargs="+", default=("fp32", "bf16"), help="fp32 first: it is compared with")
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    options.model = options.model or Path(demo_model())
    return options


def _ids(options: argparse.Namespace) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(options.model)(options.text.read_text("utf-8"))["input_ids"]
    return ids[: options.tokens]


def _load(folder: Path, dtype: str, method: str | None) -> Any:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    artifacts = ModelArtifacts(
        folder=str(folder), format=ArtifactFormat.PRETRAINED, config=config, model_type=config["model_type"]
    )
    wanted = DeepSpeedConfig.model_validate({"dtype": dtype, "quantize": method})
    return load_model(artifacts, wanted, Ranks(), lambda stage, fraction=None: None)


@torch.inference_mode()
def _log_likelihoods(model: Any, ids: list[int]) -> torch.Tensor:
    """Of all tokens after each of the text, float32 [n, vocabulary]."""
    logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits.float().log_softmax(-1)


def _megabytes(model: Any) -> float:
    """Of the linear layers, the embedding and all else; a tied matrix once."""
    n_bytes = 0
    for parameter in model.parameters():
        inner = [getattr(parameter, name, None) for name in ("qdata", "scale")]
        parts = [each for each in inner if isinstance(each, torch.Tensor)] or [parameter]
        n_bytes += sum(each.numel() * each.element_size() for each in parts)
    return n_bytes / 1e6


@torch.inference_mode()
def _step_ms(model: Any, n_rows: int) -> float:
    ids = torch.arange(n_rows)[:, None] + 5
    model(ids)
    times = []
    for _ in range(_N_TIMES):
        started_s = time.perf_counter()
        model(ids)
        times.append(time.perf_counter() - started_s)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
