# SPDX-License-Identifier: Apache-2.0
"""Answers to questions, as parts of a text: the likeliest of all short spans.

Source: the pipeline that transformers 4 had (BERT, Devlin et al. 2019, section 4.2): each window of a long text has
probabilities of its own, and answers alike are one, with the sum of their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmi.api import Compute, RequestError
from lmi_hf.tasks.answerers import TextAnswerer

_WINDOW_TOKENS, _SHARED_TOKENS = 384, 128
_Numbers = NDArray[np.float64]


@dataclass
class Span:
    """A part of the text, and how likely it is."""

    score: float
    start: int
    end: int
    answer: str


class QuestionAnswerer(TextAnswerer):
    """Finds the answer to a question in a text."""

    def answer(self, name: str, given: Any, parameters: dict[str, Any], compute: Compute) -> Any:
        question = self._cut(given["question"], parameters["max_question_len"])
        read = self._windows(name, question, given["context"], parameters)
        found: list[Span] = []
        null_score = 1.0
        for number in range(len(read["input_ids"])):
            names = self.tokenizer.model_input_names
            logits = compute({key: [read[key][number]] for key in names if key in read})
            start, end, allowed = self._probabilities(logits, read, number)
            null_score = min(null_score, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            n_best = parameters["top_k"] * 2 + 10 if parameters["align_to_words"] else parameters["top_k"]
            for first, last, score in best_spans(start, end, allowed, n_best, parameters["max_answer_len"]):
                place = self._place(read.encodings[number], first, last, aligns=parameters["align_to_words"])
                _add(found, Span(score, *place, given["context"][slice(*place)]))
        if parameters["handle_impossible_answer"] or not found:
            found.append(Span(null_score, 0, 0, ""))
        found.sort(key=lambda span: -span.score)
        return found[0] if parameters["top_k"] == 1 else found[: parameters["top_k"]]

    @property
    def _reads_question_first(self) -> bool:
        return bool(self.tokenizer.padding_side == "right")

    def _cut(self, question: str, most_tokens: int) -> str:
        read = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = read["offset_mapping"]
        return question if len(places) <= most_tokens else question[: places[most_tokens - 1][1]]

    def _windows(self, name: str, question: str, context: str, parameters: dict[str, Any]) -> Any:
        """Question and text, the latter in windows that overlap."""
        limit = self.limits.max_context_tokens
        size = parameters["max_seq_len"] or min(limit, _WINDOW_TOKENS)
        if size > limit:
            raise RequestError(
                "request.invalid", f"max_seq_len={size}; this model takes {limit} tokens", f"Send {limit} or less"
            )
        n_question = len(self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
        room = size - n_question - self.tokenizer.num_special_tokens_to_add(pair=True)
        shared = parameters["doc_stride"]
        if shared is None:
            usual = min(size // 2, _SHARED_TOKENS)
            shared = usual if usual < room else max(0, room // 2)
        if room <= shared:
            raise RequestError(
                "request.too-long",
                f"{name}: {n_question} tokens of the question leave {max(0, room)} of {size} for the text, of which "
                f"{shared} are shared by two windows (doc_stride)",
                "Shorten the question, lower max_question_len or doc_stride, or raise max_seq_len",
            )
        is_first = self._reads_question_first
        return self.tokenizer(
            *((question, context) if is_first else (context, question)),
            truncation="only_second" if is_first else "only_first",
            max_length=size,
            stride=shared,
            return_overflowing_tokens=True,
            verbose=False,
        )

    def _probabilities(self, logits: Any, read: Any, number: int) -> tuple[_Numbers, _Numbers, NDArray[np.bool_]]:
        """Of starts and of ends among the text's tokens and the one that stands for no answer; what may be one."""
        text = 1 if self._reads_question_first else 0
        allowed = np.array([each == text for each in read.sequence_ids(number)])
        counts = allowed | (np.array(read["input_ids"][number]) == self.tokenizer.cls_token_id)
        start, end = (_softmax(np.where(counts, each[0].double().numpy(), -10_000.0)) for each in logits)
        return start, end, allowed

    def _place(self, encoding: Any, first: int, last: int, *, aligns: bool) -> tuple[int, int]:
        """Where in the text a span of tokens begins and ends; of whole words, where the tokenizer knows them."""
        text = 1 if self._reads_question_first else 0
        words = (encoding.token_to_word(first), encoding.token_to_word(last)) if aligns else (None, None)
        if words[0] is not None and words[1] is not None:
            begin, stop = (encoding.word_to_chars(word, sequence_index=text) for word in words)
            if begin is not None and stop is not None:
                return int(begin[0]), int(stop[1])
        return int(encoding.offsets[first][0]), int(encoding.offsets[last][1])


def best_spans(
    start: _Numbers, end: _Numbers, allowed: NDArray[np.bool_], n_best: int, max_length: int
) -> list[tuple[int, int, float]]:
    """First token, last token and score of the likeliest spans, the best first.

    Args:
        start, end: probabilities of each token.
        allowed: tokens that an answer may begin and end with.
        n_best: how many are looked at; those with tokens that are not allowed are left out.
        max_length: most tokens of one.
    """
    n_tokens = len(start)
    table = np.zeros((min(max_length, n_tokens), n_tokens))
    for extra, row in enumerate(table):
        row[: n_tokens - extra] = start[: n_tokens - extra] * end[extra:]
    scores = table.ravel()
    n_best = min(n_best, len(scores))
    best = np.argpartition(-scores, n_best - 1)[:n_best]
    best = best[np.argsort(-scores[best], kind="stable")]
    extras, firsts = np.unravel_index(best, table.shape)
    found = zip(firsts.tolist(), (firsts + extras).tolist(), scores[best].tolist(), strict=True)
    return [(a, b, score) for a, b, score in found if score > 0 and allowed[a] and allowed[b]]


def _softmax(logits: _Numbers) -> _Numbers:
    powers: _Numbers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _add(found: list[Span], span: Span) -> None:
    for each in found:
        if each.answer.lower() == span.answer.lower():
            each.score += span.score
            return
    found.append(span)
