# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product

import pytest
from hypothesis import given, settings, strategies as st

from lmi.api import RequestError
from lmi.serving.text import OutputText, StopMatcher
from lmi.serving.tokenizer import ByteTokenizer


class ListedPieces:
    """A decoder whose ids are places in a list of pieces; counts what it was asked for."""

    def __init__(self, pieces: Sequence[str], rest: str = "") -> None:
        self.pieces = pieces
        self.rest = rest

    def push(self, ids: Sequence[int]) -> list[str]:
        return [self.pieces[token_id] for token_id in ids]

    def flush(self) -> str:
        rest, self.rest = self.rest, ""
        return rest


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, int] | None:
    """The plain way: the stop sequence complete first, the longest of those, and the character after it."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return max(complete, key=len), end
    return None


def run(pieces: Sequence[str], stops: Sequence[str], rest: str = "") -> tuple[OutputText, list[list[str]]]:
    """Add one token at a time; return what each call showed, ``finish`` last."""
    output = OutputText(ListedPieces(pieces, rest), stops)
    shown = [output.add([token_id]) for token_id in range(len(pieces))]
    return output, [*shown, output.finish()]


def flat(shown: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(shown))


SETTINGS = settings(deadline=None, derandomize=True, database=None)

# Few letters, so that stop sequences overlap themselves, each other and the borders of tokens.
LETTERS = st.text("ab\n", max_size=4)
PIECES = st.lists(LETTERS, max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=6), min_size=1, max_size=4)


@given(pieces=PIECES, stops=STOPS)
@settings(SETTINGS, max_examples=300)
def test_a_stop_sequence_that_is_kept_is_the_end_of_the_text(pieces: list[str], stops: list[str]) -> None:
    output = OutputText(ListedPieces(pieces), stops, keeps_stop=True)
    shown = [output.add([token_id]) for token_id in range(len(pieces))]
    text = "".join(flat([*shown, output.finish()]))
    whole = "".join(pieces)
    found = first_stop(whole, stops)
    assert text == (whole if found is None else whole[: found[1]])
    assert output.stop_sequence == (found and found[0])


@given(pieces=PIECES, stops=STOPS)
@settings(SETTINGS, max_examples=500)
def test_shown_text_is_the_full_text_cut_at_the_first_stop_sequence(pieces: list[str], stops: list[str]) -> None:
    output, shown = run(pieces, stops)
    text = "".join(pieces)
    match = first_stop(text, stops)
    found, end = match if match else (None, len(text))
    assert output.stop_sequence == found
    assert "".join(flat(shown)) == text[: end - len(found or "")]


@given(pieces=PIECES, stops=STOPS)
@settings(SETTINGS, max_examples=500)
def test_every_token_that_counts_gets_one_piece_of_its_own_text(pieces: list[str], stops: list[str]) -> None:
    output, shown = run(pieces, stops)
    match = first_stop("".join(pieces), stops)
    n_counted = len(pieces)
    if match:
        n_counted = next(n for n in range(1, len(pieces) + 1) if len("".join(pieces[:n])) >= match[1])
    assert output.n_ids == n_counted
    released = flat(shown)
    assert len(released) == n_counted
    assert all(piece.startswith(part) for piece, part in zip(pieces, released, strict=False))


@given(pieces=PIECES, stops=STOPS, data=st.data())
@settings(SETTINGS, max_examples=300)
def test_chunking_changes_no_piece(pieces: list[str], stops: list[str], data: st.DataObject) -> None:
    one_by_one, shown = run(pieces, stops)
    output = OutputText(ListedPieces(pieces), stops)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pieces)), max_size=5)))
    chunked: list[str] = []
    for begin, end in zip([0, *cuts], [*cuts, len(pieces)], strict=True):
        chunked += output.add(range(begin, end))
    chunked += output.finish()
    assert chunked == flat(shown)
    assert (output.stop_sequence, output.n_ids) == (one_by_one.stop_sequence, one_by_one.n_ids)


@given(pieces=PIECES, stops=STOPS)
@settings(SETTINGS, max_examples=500)
def test_exactly_the_tokens_that_may_belong_to_a_stop_sequence_are_held(pieces: list[str], stops: list[str]) -> None:
    _, shown = run(pieces, stops)
    n_released = 0
    for n_added, released in enumerate(shown[:-1], start=1):
        n_released += len(released)
        text = "".join(pieces[:n_added])
        if first_stop(text, stops):
            break
        held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        released_text = "".join(pieces[:n_released])
        assert len(released_text) <= len(text) - held  # nothing is leaked
        next_piece = pieces[n_released] if n_released < n_added else None
        assert next_piece is None or len(released_text + next_piece) > len(text) - held  # nothing waits in vain


def test_without_stop_sequences_every_token_is_shown_at_once() -> None:
    output = OutputText(ListedPieces(["a", "", "b"]))
    assert output.add([0, 1, 2]) == ["a", "", "b"]
    assert output.finish() == []
    assert output.n_ids == 3


def test_a_stop_sequence_over_many_tokens_is_held_and_never_shown() -> None:
    output, shown = run(["Hi", "\n", "Us", "er", ":", "more"], ["\nUser:"])
    assert shown == [["Hi"], [], [], [], ["", "", "", ""], [], []]
    assert (output.stop_sequence, output.n_ids) == ("\nUser:", 5)


def test_tokens_held_in_vain_are_shown_in_order_when_it_is_clear() -> None:
    output, shown = run(["Hi", "\n", "Us", "age", "!"], ["\nUser:"])
    assert shown == [["Hi"], [], [], ["\n", "Us", "age"], ["!"], []]
    assert output.stop_sequence is None


def test_the_token_in_which_the_match_begins_keeps_the_text_before_it() -> None:
    _, shown = run(["one. #", "#", "# two", " three"], ["###"])
    assert shown == [[], [], ["one. ", "", ""], [], []]


def test_a_stop_sequence_inside_one_token_hides_the_rest_of_the_token() -> None:
    output, shown = run(["a</s>b", "c"], ["</s>"])
    assert shown == [["a"], [], []]
    assert output.n_ids == 1


def test_the_sequence_complete_first_wins_although_another_began_earlier() -> None:
    output, shown = run(["xab", "cd"], ["abcd", "bc"])
    assert (output.stop_sequence, flat(shown)) == ("bc", ["xa", ""])


def test_of_sequences_complete_together_the_longest_wins() -> None:
    output, shown = run(["xa", "bc"], ["c", "bc", "abc"])
    assert (output.stop_sequence, flat(shown)) == ("abc", ["x", ""])


def test_what_is_held_at_the_end_is_shown_by_finish() -> None:
    _, shown = run(["a", "#", "#"], ["###"])
    assert shown == [["a"], [], [], ["#", "#"]]


def test_the_rest_of_the_decoder_joins_the_last_held_piece() -> None:
    output, shown = run(["a", "#"], ["##"], rest="\ufffd")
    assert shown[-1] == ["#\ufffd"]
    assert output.n_ids == 2


def test_the_rest_of_the_decoder_is_a_piece_of_its_own_when_all_tokens_were_shown() -> None:
    _, shown = run(["a"], [], rest="\ufffd")
    assert shown == [["a"], ["\ufffd"]]


def test_a_stop_sequence_that_is_complete_with_the_rest_is_not_shown() -> None:
    output, shown = run(["a", "#"], ["#\ufffd"], rest="\ufffd")
    assert shown == [["a"], [], [""]]
    assert (output.stop_sequence, output.n_ids) == ("#\ufffd", 2)


def test_a_hidden_stop_token_counts_and_shows_nothing() -> None:
    output = OutputText(ListedPieces(["a", "#"]), ["##"])
    assert output.add([0, 1]) == ["a"]
    assert output.finish(hide_last=True) == ["#", ""]
    assert output.n_ids == 3


def test_a_hidden_stop_token_carries_what_the_decoder_had_left() -> None:
    output = OutputText(ListedPieces(["a"], rest="\ufffd"))
    assert output.add([0]) == ["a"]
    assert output.finish(hide_last=True) == ["\ufffd"]
    assert output.n_ids == 2


def test_ids_after_the_match_show_nothing_and_do_not_count() -> None:
    output = OutputText(ListedPieces(["a", "#", "b"]), ["#"])
    assert output.add([0, 1, 2]) == ["a", ""]
    assert output.add([0]) == []
    assert output.finish(hide_last=True) == []
    assert output.n_ids == 2


def test_a_stop_sequence_may_be_part_of_a_character_split_over_tokens() -> None:
    tokenizer = ByteTokenizer()
    output = OutputText(tokenizer.decoder(), ["🙂"])
    ids = tokenizer.encode("hi 🙂 there")
    shown = [piece for token_id in ids for piece in output.add([token_id])]
    assert "".join(shown) == "hi "
    assert output.n_ids == len("hi 🙂".encode())


def test_an_empty_stop_sequence_is_refused_with_its_place() -> None:
    with pytest.raises(RequestError, match=r"request.empty-stop-sequence: stop_sequences\[1\] is empty"):
        OutputText(ListedPieces([]), ["a", ""])


def test_every_stop_sequence_of_two_letters_is_found_after_every_false_start() -> None:
    for stop in ("".join(letters) for n in range(1, 9) for letters in product("ab", repeat=n)):
        matcher = StopMatcher((stop,))
        for n_first, n_second in product(range(len(stop)), repeat=2):
            text = stop[:n_first] + stop[:n_second] + stop
            assert matcher.scan(0, text)[1] == text.find(stop) + len(stop), (stop, text)


def test_a_sequence_that_repeats_itself_costs_one_state_a_character() -> None:
    stop = "a" * 2000
    matcher = StopMatcher((stop,))
    assert len(matcher.depths) == 2001
    state, end = matcher.scan(0, "a" * 1999 + "b")
    assert (state, end) == (0, 0)
    assert matcher.scan(0, stop)[1] == 2000
