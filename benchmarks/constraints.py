# SPDX-License-Identifier: Apache-2.0
"""What constraints cost: compiling them, and the masks of a step for 1, 8 and 32 requests.

A random walk: of all that may come next, any token is chosen. With SmolLM2's vocabulary of 49,152 ids; no model runs.

    make bench-constraints
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from lmi.api import Constraint, GenerationRequest, SamplingParams
from lmi.scheduling.guides import Guides
from lmi.scheduling.rows import SamplingRow
from lmi.scheduling.sampling import Sampler
from processes import demo_model, machine

BAR_MS = 1.0
"""A step of 32 requests on a small model takes tens of milliseconds on a CPU, and some on a GPU."""

N_STEPS = 60
SLOTS = (1, 8, 32)

_ADDRESS = {
    "type": "object", "required": ["street", "zip"], "additionalProperties": False,
    "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
}  # fmt: skip
_PERSON = {
    "type": "object", "required": ["name", "age", "tags", "address"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3}, "address": _ADDRESS,
    },
}  # fmt: skip
_PART = {
    "type": "object", "required": [f"p{i}" for i in range(6)], "additionalProperties": False,
    "properties": {f"p{i}": {"type": ["string", "integer", "null"]} for i in range(6)},
}  # fmt: skip
_LARGE = {
    "type": "object", "required": [f"field_{i}" for i in range(150)], "additionalProperties": False,
    "properties": {f"field_{i}": _PART for i in range(150)},
}  # fmt: skip
_SUM = 'root ::= term ("+" term)*\nterm ::= [0-9]+ | "(" root ")"'

CONSTRAINTS = {
    "any JSON object": Constraint(kind="json_schema", source='{"type": "object"}'),
    "schema, 7 properties": Constraint(kind="json_schema", source=json.dumps(_PERSON)),
    "schema, 900 properties": Constraint(kind="json_schema", source=json.dumps(_LARGE)),
    "choice of 1000": Constraint(kind="choice", source=json.dumps([f"choice {i}" for i in range(1000)])),
    "grammar of sums": Constraint(kind="grammar", source=_SUM),
    "regex, 200 letters": Constraint(kind="regex", source="[A-Za-z0-9 ,.]{10,200}"),
}


def spread(values_s: list[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    return f"{1000 * statistics.median(values_s):7.2f} {1000 * float(np.percentile(values_s, 95)):7.2f}"


class Walk:
    """Requests of one constraint, stepping side by side; what is complete begins again.

    Args:
        guides: compile and compute.
        constraint: of all requests.
        n_slots: requests.
        n_ids, eos_id: of the vocabulary.
    """

    def __init__(self, guides: Guides, constraint: Constraint, n_slots: int, n_ids: int, eos_id: int) -> None:
        self._guides, self._eos_id = guides, eos_id
        sampling = SamplingParams(max_tokens=N_STEPS + 1, constraint=constraint)
        self._request = GenerationRequest(request_id="r", prompt_ids=[1], sampling=sampling)
        self._sampler = Sampler(n_ids)
        self._logits = torch.randn((n_slots, n_ids), generator=torch.Generator().manual_seed(1))
        self._random = np.random.default_rng(0)
        self.rows = [SamplingRow(sampling, [1], [], (), n_ids) for _ in range(n_slots)]

    async def begin(self) -> float:
        """Guides for all rows; seconds until the first was there."""
        begun_s = time.perf_counter()
        await self._guides.guide(self._request)
        first_s = time.perf_counter() - begun_s
        for row in self.rows:
            row.guide = await self._guides.guide(self._request)
        return first_s

    async def step(self) -> tuple[float, float]:
        """Seconds for the masks, and for choosing under them."""
        begun_s = time.perf_counter()
        self._guides.fill([row.guide for row in self.rows if row.guide is not None])
        filled_s = time.perf_counter()
        self._sampler.sample(self._logits, self.rows)
        chosen_s = time.perf_counter()
        for row in self.rows:
            assert row.guide is not None
            allowed = np.flatnonzero(np.unpackbits(row.guide.mask.view(np.uint8), bitorder="little"))
            token_id = int(self._random.choice(allowed))
            row.append(token_id)
            if token_id == self._eos_id:
                row.guide = await self._guides.guide(self._request)
        return filled_s - begun_s, chosen_s - filled_s


async def measure(walk: Walk) -> tuple[list[float], list[float], float]:
    """Masks and choices of each step, and what the first request waited for; all in seconds."""
    first_s = await walk.begin()
    steps = [await walk.step() for _ in range(N_STEPS)]
    return [masks_s for masks_s, _ in steps], [chosen_s for _, chosen_s in steps], first_s


async def run(arguments: argparse.Namespace) -> None:
    text = Path(arguments.model, "tokenizer.json").read_text("utf-8")
    rust = Tokenizer.from_str(text)
    n_ids, eos_id = rust.get_vocab_size(), rust.token_to_id(arguments.eos)
    begun_s = time.perf_counter()
    guides = Guides(lambda: text, [eos_id], n_ids)
    await Walk(guides, Constraint(kind="regex", source="warm"), 1, n_ids, eos_id).begin()
    print(f"{n_ids} ids; reading the tokenizer, once a start: {time.perf_counter() - begun_s:.2f} s")
    plain = [SamplingRow(SamplingParams(max_tokens=1), [1], [], (), n_ids) for _ in range(SLOTS[-1])]
    sampler, logits = Sampler(n_ids), torch.randn((SLOTS[-1], n_ids))
    taken_s = []
    for _ in range(N_STEPS):
        begun_s = time.perf_counter()
        sampler.sample(logits, plain)
        taken_s.append(time.perf_counter() - begun_s)
    print(f"choosing for {SLOTS[-1]} without constraints: {spread(taken_s)} ms (median, 95%)\n")
    heads = [f"masks, {n}" for n in SLOTS] + [f"choosing, {SLOTS[-1]}"]
    print(f"{'ms (median, 95%)':24}{'compile':>9}" + "".join(f"{head:>18}" for head in heads))
    slow = []
    for name, constraint in CONSTRAINTS.items():
        found = [await measure(Walk(guides, constraint, n, n_ids, eos_id)) for n in SLOTS]
        columns = [spread(masks) for masks, _, _ in found] + [spread(found[-1][1])]
        print(f"{name:24}{1000 * found[0][2]:9.1f}" + "".join(f"{column:>18}" for column in columns))
        if 1000 * statistics.median(found[-1][0]) > BAR_MS:
            slow.append(name)
    guides.close()
    print(f"\nbar: masks of 32 in {BAR_MS:g} ms (median): {'beyond it: ' + ', '.join(slow) if slow else 'kept'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder with a tokenizer.json; default: the demo model")
    parser.add_argument("--eos", default="<|endoftext|>", help="its end of a text")
    options = parser.parse_args()
    options.model = options.model or demo_model()
    print(machine())
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
