# SPDX-License-Identifier: Apache-2.0
"""The text of one output: pieces that may be shown now, up to a stop sequence.

What ends an output is decided character by character, so it does not depend on how the text falls into tokens or how
tokens fall into chunks: the stop sequence that is complete first; of several that are complete with the same
character, the longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from lmi.api.errors import RequestError
from lmi.serving.token_decoder import TokenDecoder


class OutputText:
    """Decodes an output and holds tokens back while their text may be the beginning of a stop sequence.

    ``stop_sequence`` is the one that ended the text, None before. ``n_ids`` counts the ids that belong to the output:
    all of them, or those up to the one that completed the stop sequence.

    Args:
        decoder: a new one, used by nobody else.
        stop_sequences: texts that end the output and are not part of it.
        keeps_stop: the one that ends it is its last part, all the same.
    Raises:
        RequestError: a stop sequence is empty.
    """

    __slots__ = (
        "_decoder",
        "_held",
        "_keeps_stop",
        "_matcher",
        "_n_held_characters",
        "_state",
        "n_ids",
        "stop_sequence",
    )

    def __init__(self, decoder: TokenDecoder, stop_sequences: Sequence[str] = (), *, keeps_stop: bool = False) -> None:
        self._decoder = decoder
        self._keeps_stop = keeps_stop
        self._matcher = stop_matcher(tuple(stop_sequences)) if stop_sequences else None
        self._state = 0
        self._held: list[str] = []
        self._n_held_characters = 0
        self.stop_sequence: str | None = None
        self.n_ids = 0

    def add(self, ids: Sequence[int]) -> list[str]:
        """Take the next ids; return the text of those tokens that may be shown now, oldest first.

        Every token gets one piece: at once, with a later call, or from ``finish``. The token in which a stop sequence
        begins gets the text before it, those that hold the rest of it get "", later ones get nothing.
        """
        if self._matcher is None:
            self.n_ids += len(ids)
            return self._decoder.push(ids)
        shown: list[str] = []
        if self._is_ended():
            return shown
        for piece in self._decoder.push(ids):
            self.n_ids += 1
            shown += self._take(self._matcher, piece)
            if self._is_ended():
                break
        return shown

    def finish(self, *, hide_last: bool = False) -> list[str]:
        """Return the pieces still held; nothing follows.

        What an incomplete character leaves behind belongs to the last piece; where all tokens have been shown it is
        one piece more.

        Args:
            hide_last: the output ended with a stop token that was not given to ``add``. It counts, and the last piece
                is its own: none of its text.
        """
        if self._is_ended():
            return []
        rest = self._decoder.flush()
        if self._matcher is not None and rest:
            pieces = self._take(self._matcher, rest) + self._release()
        else:
            pieces = [*self._release(), rest]
        # Now the last piece is the rest, which is the hidden token's or joins the last token shown.
        if hide_last and not self._is_ended():
            self.n_ids += 1
            return pieces
        last = pieces.pop()
        if pieces:
            pieces[-1] += last
        elif last:
            pieces = [last]
        return pieces

    def _is_ended(self) -> bool:
        return self.stop_sequence is not None

    def _take(self, matcher: StopMatcher, piece: str) -> list[str]:
        """Hold the piece of one token; return what need not be held any longer."""
        if not self._held and matcher.is_free_of(piece):
            return [piece]
        self._state, end = matcher.scan(self._state, piece)
        self._held.append(piece)
        if end:
            n_before = self._n_held_characters
            self._n_held_characters += len(piece)
            self._cut(matcher, n_before + end)
            return self._release()
        self._n_held_characters += len(piece)
        return self._release(matcher.depths[self._state])

    def _cut(self, matcher: StopMatcher, end: int) -> None:
        """End the held text where the stop sequence that ends at character ``end`` of it begins, or after it."""
        self.stop_sequence = matcher.found[self._state]
        n_left = end if self._keeps_stop else end - len(self.stop_sequence or "")
        for index, piece in enumerate(self._held):
            self._held[index] = piece[:n_left]
            n_left -= len(self._held[index])

    def _release(self, n_kept_characters: int = 0) -> list[str]:
        """Give out the oldest tokens as long as the rest still holds the last ``n_kept_characters``."""
        n_released = 0
        for piece in self._held:
            if self._n_held_characters - len(piece) < n_kept_characters:
                break
            self._n_held_characters -= len(piece)
            n_released += 1
        released = self._held[:n_released]
        del self._held[:n_released]
        return released


class StopMatcher:
    """Finds several stop sequences at once, one step a character.

    A state stands for the longest end of the text that is the beginning of a stop sequence; 0 for none.
    Source: Aho and Corasick, "Efficient string matching" (1975).

    Args:
        stop_sequences: at least one character each.
    """

    def __init__(self, stop_sequences: tuple[str, ...]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]
        self.depths = [0]
        """Characters of text a state stands for."""
        self.found: list[str | None] = [None]
        """The longest stop sequence that is complete in a state."""
        for text in stop_sequences:
            self._insert(text)
        self._link()
        self._first_characters = frozenset(self._next[0])

    def is_free_of(self, text: str) -> bool:
        """Whether no stop sequence begins in this text."""
        return self._first_characters.isdisjoint(text)

    def scan(self, state: int, text: str) -> tuple[int, int]:
        """Go on through text until a stop sequence is complete.

        Returns:
            The new state, and how many characters were read when a stop sequence was complete; 0 where none is.
        """
        following, shorter, found = self._next, self._shorter, self.found
        for n_read, character in enumerate(text, start=1):
            reached = following[state].get(character)
            while reached is None and state:
                state = shorter[state]
                reached = following[state].get(character)
            state = reached or 0
            if found[state] is not None:
                return state, n_read
        return state, 0

    def _insert(self, text: str) -> None:
        state = 0
        for depth, character in enumerate(text, start=1):
            reached = self._next[state].get(character)
            if reached is None:
                reached = len(self._next)
                self._next[state][character] = reached
                self._next.append({})
                self._shorter.append(0)
                self.depths.append(depth)
                self.found.append(None)
            state = reached
        self.found[state] = text

    def _link(self) -> None:
        """Give every state the next shorter text it stands for too, shortest states first."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, reached in self._next[state].items():
                waiting.append(reached)
                shorter = self._shorter[state]
                while shorter and character not in self._next[shorter]:
                    shorter = self._shorter[shorter]
                self._shorter[reached] = self._next[shorter].get(character, 0)
                self.found[reached] = self.found[reached] or self.found[self._shorter[reached]]


@lru_cache(maxsize=64)
def stop_matcher(stop_sequences: tuple[str, ...]) -> StopMatcher:
    """Return the matcher of these stop sequences; callers mostly send the same few with every request.

    Raises:
        RequestError: one of them is empty.
    """
    if "" in stop_sequences:
        text = f"stop_sequences[{stop_sequences.index('')}] is empty"
        raise RequestError("request.empty-stop-sequence", text, "Give at least one character, or leave it out")
    return StopMatcher(stop_sequences)
