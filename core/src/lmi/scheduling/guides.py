# SPDX-License-Identifier: Apache-2.0
"""Constraints in the worker: compiled beside the steps, and before each token the ids that keep to them.

Source: llguidance (Moskal et al., Microsoft Research), an Earley parser over lexemes that walks the tree of all tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lmi.api import Constraint, GenerationRequest, LmiError, ReasoningMarks, RequestError, UnsupportedError
from lmi.grammars import STACK_BYTES, grammar_of, in_one_line
from lmi.scheduling.reasoning import ReasoningPlace
from lmi.threads import stack_of

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

    from lmi.scheduling.rows import SamplingRow

Words = NDArray[np.uint32]
_T = TypeVar("_T")

MOST_COMPILED = 64
"""Constraints that are kept compiled; the one that was used longest ago goes first."""

MOST_COMPILE_S = 10.0
"""What a request waits for its constraint. A schema of 60 KB takes 0.1 s."""

MOST_FIRST_MASK_S = 1.0
"""What the first mask may take; all running requests wait for the later ones."""

_SLICES = tuple(f"{letters}{{1,{n}}}" for letters in ("[a-z ]", "[a-zA-Z ]", "[a-zA-Z0-9 ]") for n in (10, 20))
"""Tokens of these forms are judged together, beside those of the library's own slices (texts in JSON): a pattern that
lets so many letters come, as ``[a-z ]{1,2000}``, is looked at once for all of them. Changes no mask."""

_N_COMPILERS = 2
_ALL = np.uint32(2**32 - 1)


class Guide:
    """What may come next in the output of one request.

    Args:
        matcher: at the beginning of the output; the guide's own.
        end_ids: ids that end the request; they may come where the output is complete.
        eos_ids: those of them that are held back as long as anything else may come; empty without ignore_eos.
        text_ids: those of them that are also text, which would be taken for a part of the output.
        reasoning: what may come before all that the matcher sees; None for nothing.
    """

    __slots__ = ("_end_ids", "_ends", "_eos", "_matcher", "_reasoning", "_text", "failure", "mask")

    def __init__(
        self,
        matcher: LLMatcher,
        end_ids: frozenset[int],
        *,
        eos_ids: frozenset[int],
        text_ids: frozenset[int],
        reasoning: ReasoningMarks | None = None,
    ) -> None:
        self._matcher = matcher
        self._reasoning = ReasoningPlace(reasoning)
        self._end_ids = end_ids
        self._ends, self._eos, self._text = _bits(end_ids), _bits(eos_ids), _bits(text_ids)
        self.mask: Words = np.zeros(0, np.uint32)
        self.failure = ""

    @property
    def is_free(self) -> bool:
        """Whether the grammar has not begun: whatever ends no request may come."""
        return self._reasoning.is_inside

    def append(self, token_id: int) -> None:
        """Take note of the token that was chosen."""
        if not self._reasoning.takes(token_id) and token_id not in self._end_ids:
            self._matcher.consume_token(token_id)

    def resume(self, ids: Sequence[int]) -> None:
        """Take note of what an interrupted run produced.

        Raises:
            RequestError: it does not keep to the constraint.
        """
        n_before = next((n for n, token_id in enumerate(ids) if not self._reasoning.takes(token_id)), len(ids))
        if not self._matcher.consume_tokens(list(ids[n_before:])):
            reason = in_one_line(self._matcher.get_error())
            raise RequestError("request.constraint-failed", f"the output so far breaks its constraint: {reason}")

    def set_mask(self, mask: Words) -> None:
        """Take the ids that the grammar allows, as bits, and add or drop those that end the request.

        Args:
            mask: shape [n_words]; changed, and kept until the next one. Where the guide is free, it may hold anything.
        """
        self.mask = mask
        if self.is_free:
            mask[:] = _ALL
            for word, bits in self._ends:
                mask[word] &= ~bits
        elif self._matcher.is_error():
            self.failure = in_one_line(self._matcher.get_error())
            mask[:] = 0
            return
        else:
            self._add_ends(mask)
        if (mark := self._reasoning.next_mark) is not None:
            [(word, bits)] = _bits([mark])
            mask[word] |= bits

    def _add_ends(self, mask: Words) -> None:
        if not self._matcher.is_accepting():
            for word, bits in self._text:
                mask[word] &= ~bits
        else:
            for word, bits in self._ends:
                mask[word] |= bits
            if self._eos:
                held = [mask[word] & bits for word, bits in self._eos]
                for word, bits in self._eos:
                    mask[word] &= ~bits
                if not mask.any():
                    for (word, _), bits in zip(self._eos, held, strict=True):
                        mask[word] |= bits

    def dead_end(self, row: SamplingRow, vocab_size: int) -> str | None:
        """Why nothing can follow; None where something could, as far as the constraint goes.

        Args:
            row: of the request: what else its next token depends on.
            vocab_size: number of token ids.
        """
        if self.failure:
            return self.failure
        allowed = np.unpackbits(self.mask.view(np.uint8), bitorder="little", count=vocab_size).astype(bool)
        found = set(np.flatnonzero(allowed).tolist())
        added = row.added
        held = set() if added is None else set(added[0][np.isneginf(added[1])].tolist())
        if not found <= held:
            return None
        if found and found <= self._end_ids and row.n_output < row.sampling.min_tokens:
            return f"it is complete, and min_tokens={row.sampling.min_tokens} asks for more"
        return f"of the {len(found)} ids that may follow, all are held back (bad words, biases, min_tokens)"


class Guides:
    """Compiles constraints with a model's tokenizer, and computes the masks of a step.

    Args:
        read_tokenizer: gives the tokenizer.json, as text; called once, in a thread.
        eos_token_ids: the model's end-of-sequence ids.
        vocab_size: width of the logits.
    """

    def __init__(self, read_tokenizer: Callable[[], str], eos_token_ids: Sequence[int], vocab_size: int) -> None:
        self._read_tokenizer = read_tokenizer
        self._eos_ids = frozenset(each for each in eos_token_ids if 0 <= each < vocab_size)
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[Constraint, Future[LLMatcher | str]] = OrderedDict()
        self._pool = ThreadPoolExecutor(_N_COMPILERS, thread_name_prefix="lmi-constraints")
        self._executor: LLExecutor | None = None
        self._words: NDArray[np.uint32] = np.zeros((0, 0), np.uint32)
        # At once: it holds Python's lock (0.4 s for 49,152 ids), which running requests would feel later.
        self._tokenizer = self._submit(self._load_tokenizer)

    def close(self) -> None:
        """Begin no further work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def guide(self, request: GenerationRequest) -> Guide:
        """What guides a request that has a constraint, where its output is now.

        Raises:
            UnsupportedError: no constraint can be obeyed with this model.
            RequestError: this one cannot, or not in time.
        """
        sampling, constraint = request.sampling, request.sampling.constraint
        assert constraint is not None  # noqa: S101 - the caller looked
        tokenizer = await asyncio.wrap_future(self._tokenizer)
        if isinstance(tokenizer, LmiError):
            raise type(tokenizer)(tokenizer.code, tokenizer.message, tokenizer.hint)
        matcher = await self._matcher(constraint)
        special = {each for each in sampling.stop_token_ids if tokenizer.is_special_token(each)}
        ends = self._eos_ids | special
        guide = Guide(
            matcher.deep_copy(),
            ends,
            eos_ids=self._eos_ids if sampling.ignore_eos else frozenset(),
            text_ids=frozenset(each for each in ends if not tokenizer.is_special_token(each)),
            reasoning=constraint.reasoning,
        )
        if request.resumed_ids:
            await asyncio.to_thread(guide.resume, request.resumed_ids)
        return guide

    def fill(self, guides: Sequence[Guide]) -> None:
        """Compute the masks of some requests, side by side.

        Args:
            guides: of different requests, at least one.
        """
        n_words = -(-self._n_ids // 32)
        if len(self._words) < len(guides):
            self._words = np.zeros((len(guides), n_words), np.uint32)
        words = self._words
        pairs = [(guide._matcher, row) for row, guide in enumerate(guides) if not guide.is_free]
        if len(pairs) == 1:
            [(matcher, row)] = pairs
            matcher.unsafe_compute_mask_ptr(words[row].ctypes.data, n_words * 4)
        elif pairs:
            self._threads().unsafe_compute_mask_ptr(pairs, words.ctypes.data, n_words * 4, len(words))
        for row, guide in enumerate(guides):
            guide.set_mask(words[row])

    # ----------------------------------------------------------------------------------------------------- compiling

    async def _matcher(self, constraint: Constraint) -> LLMatcher:
        constraint = msgspec.structs.replace(constraint, reasoning=None)  # it is compiled once, whatever comes before
        found = self._compiled.get(constraint)
        if found is None or found.cancelled():
            found = self._compiled[constraint] = self._submit(lambda: self._compile(constraint))
        self._compiled.move_to_end(constraint)
        if len(self._compiled) > MOST_COMPILED:
            self._compiled.popitem(last=False)
        shown = f"the constraint ({constraint.kind} of {len(constraint.source)} characters)"
        try:
            matcher = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(found)), MOST_COMPILE_S)
        except asyncio.TimeoutError:
            text = f"{shown} was not compiled within {MOST_COMPILE_S:g} s"
            raise RequestError("request.constraint-too-slow", text, "Make it simpler") from None
        if isinstance(matcher, str):
            raise RequestError("request.invalid", f"{shown} cannot be obeyed: {matcher}", "Change it")
        return matcher

    def _compile(self, constraint: Constraint) -> LLMatcher | str:
        """A matcher at the beginning, which has computed a mask; or why there is none. In a thread."""
        from llguidance import LLMatcher

        tokenizer = self._tokenizer.result()
        if isinstance(tokenizer, LmiError):
            return str(tokenizer)
        try:
            grammar = grammar_of(constraint)
        except (ValueError, TypeError) as error:
            return in_one_line(str(error))
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        begun_s = time.monotonic()
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            return in_one_line(matcher.get_error())
        took_s = time.monotonic() - begun_s
        if took_s > MOST_FIRST_MASK_S:
            return f"one token takes {took_s:.1f} s; at most {MOST_FIRST_MASK_S:g} s is allowed"
        return matcher

    def _load_tokenizer(self) -> LLTokenizer | LmiError:
        from llguidance import LLTokenizer

        hint = "Leave the constraint out"
        if not self._eos_ids:
            text = "a constraint needs an end-of-sequence id, and this model's configuration names none"
            return UnsupportedError("request.unsupported", text, "Add eos_token_id to its generation_config.json")
        try:
            text, slices = self._read_tokenizer(), [*LLTokenizer.general_slices(), *_SLICES]
            try:
                return LLTokenizer(text, n_vocab=self._vocab_size, eos_token=min(self._eos_ids), slices=slices)
            except ValueError:  # it has more ids than the logits
                return LLTokenizer(text, eos_token=min(self._eos_ids), slices=slices)
        except LmiError as error:
            return UnsupportedError("request.unsupported", f"a constraint needs the tokenizer: {error}", hint)
        except ValueError as error:
            reason = in_one_line(str(error))
            return UnsupportedError("request.unsupported", f"this tokenizer takes no constraints: {reason}", hint)

    def _submit(self, work: Callable[[], _T]) -> Future[_T]:
        with stack_of(STACK_BYTES):  # a thread is started here, if at all
            return self._pool.submit(work)

    @property
    def _n_ids(self) -> int:
        tokenizer = self._tokenizer.result()
        return self._vocab_size if isinstance(tokenizer, LmiError) else int(tokenizer.vocab_size)

    def _threads(self) -> LLExecutor:
        from llguidance import LLExecutor

        if self._executor is None:
            self._executor = LLExecutor()
        return self._executor


def _bits(ids: Iterable[int]) -> list[tuple[int, np.uint32]]:
    """Ids as words of a mask and the bits in them."""
    found: dict[int, int] = {}
    for each in ids:
        found[each // 32] = found.get(each // 32, 0) | 1 << each % 32
    return [(word, np.uint32(bits)) for word, bits in found.items()]
