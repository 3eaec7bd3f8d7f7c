# SPDX-License-Identifier: Apache-2.0
"""How the stand-in chooses an id: what the library's own decoder honours, in its order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass
class Sequence:
    """One request while it runs.

    Args:
        params: the SamplingParams.
        ids: prompt and output.
        n_prompt: how many of them are the prompt.
        decode: text of ids, for a guide; None where there is no tokenizer.
        lora: the LoRARequest; None for the model itself.
    """

    params: Any
    ids: list[int]
    n_prompt: int
    decode: Callable[[list[int]], str] | None = None
    lora: Any = None
    adapter: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.Generator(np.random.Philox(self.params.seed or 0))

    @property
    def output(self) -> list[int]:
        return self.ids[self.n_prompt :]


def choose(raw: Logits, sequence: Sequence) -> int:
    """The next id of a sequence."""
    params, logits = sequence.params, raw.astype(np.float64)
    _penalise(logits, sequence)
    if params.embedding_bias is not None:
        logits += params.embedding_bias.numpy()
    for token_id in params.bad_token_ids or ():
        logits[token_id] = -np.inf
    if len(sequence.output) < (params.min_tokens or 0) and params.end_id is not None:
        logits[params.end_id] = -np.inf
    _guide(logits, sequence)
    if params.top_k == 1 or (params.top_k is None and not params.top_p):  # greedy, as the library has it
        return int(logits.argmax())
    return _draw(logits, sequence)


def _penalise(logits: NDArray[np.float64], sequence: Sequence) -> None:
    params = sequence.params
    if params.repetition_penalty:
        seen = list(set(sequence.ids))
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    counts = Counter(sequence.ids[params.prompt_ignore_length or 0 :])  # prompts count, unless told otherwise
    for token_id, n in counts.items():
        logits[token_id] -= (params.presence_penalty or 0.0) + n * (params.frequency_penalty or 0.0)


def _guide(logits: NDArray[np.float64], sequence: Sequence) -> None:
    guide = sequence.params.guided_decoding
    if guide is None:
        return
    if sequence.decode is None:
        raise ValueError("guided decoding needs a tokenizer")
    if guide.regex is None:
        raise ValueError("the stand-in is guided by regular expressions alone")
    before = sequence.decode(sequence.output)
    if regex.fullmatch(guide.regex, before):
        return
    for token_id in np.argsort(-logits):
        text = sequence.decode([*sequence.output, int(token_id)])
        if len(text) > len(before) and regex.fullmatch(guide.regex, text, partial=True):
            logits[np.arange(len(logits)) != token_id] = -np.inf
            return


def _draw(logits: NDArray[np.float64], sequence: Sequence) -> int:
    params = sequence.params
    scaled = logits / (params.temperature or 1.0)
    share = np.exp(scaled - scaled.max())
    share /= share.sum()
    order = np.argsort(-share, kind="stable")
    keep = len(order)
    if params.top_k:
        keep = min(keep, params.top_k)
    if params.top_p:
        keep = min(keep, int(np.searchsorted(np.cumsum(share[order]), params.top_p)) + 1)
    kept = [int(each) for each in order[:keep] if share[each] >= (params.min_p or 0.0) * share[order[0]]]
    weights = share[kept] / share[kept].sum()
    return int(sequence.random.choice(kept, p=weights))
