# SPDX-License-Identifier: Apache-2.0
"""Reasoning told from content, and what comes of the content."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lmi.serving.reasoning import MARKERS, ReasoningParser, new_reasoning_parser, reasoning_for
from lmi.serving.tools.choice import new_parser
from lmi.serving.tools.deltas import CallArguments, CallStart, Content, Reasoning, merged
from lmi.serving.tools.reply import ReplyParser

SETTINGS = settings(deadline=None, derandomize=True, database=None)


def parsed(pieces: list[str], *, starts_inside: bool = False, name: str = "think") -> list[Content | Reasoning]:
    parser = ReasoningParser(*MARKERS[name], starts_inside=starts_inside)
    return merged([delta for piece in pieces for delta in parser.push(piece)] + parser.finish())


def both(reasoning: str, content: str) -> list[Content | Reasoning]:
    return [*([Reasoning(reasoning)] if reasoning else []), *([Content(content)] if content else [])]


@pytest.mark.parametrize(
    ("text", "starts_inside", "reasoning", "content"),
    [
        ("<think>\nWell, 1 < 2.\n\nSo\n</think>\n\nYes.\n", False, "Well, 1 < 2.\n\nSo", "Yes.\n"),
        (" \n<think>a</think>b", False, "a", "b"),
        ("<think>\n\n</think>\n\n  indented", False, "", "  indented"),
        ("Well, so\n</think>\n\nYes.", True, "Well, so", "Yes."),
        ("\n\n</think>Yes.", True, "", "Yes."),
        ("<think>\na</think>b", True, "a", "b"),
        ("  a</think>b", True, "  a", "b"),
        ("No thoughts.\n", False, "", "No thoughts.\n"),
        ("\n I say <think> and </think>.", False, "", "\n I say <think> and </think>."),
        ("<thinking>a</thinking>", False, "", "<thinking>a</thinking>"),
        ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
        ("<think>a <think> b</think>c", False, "a <think> b", "c"),
        ("<think>still thin</thi", False, "still thin</thi", ""),
        ("<think>\nstill\n\n", False, "still\n\n", ""),
        ("<thi", False, "", "<thi"),
        ("<thi", True, "<thi", ""),
        (" \n", False, "", " \n"),
        ("<think>", False, "", ""),
        ("", False, "", ""),
        ("", True, "", ""),
        ("<think>Größe 😀</think>ß", False, "Größe 😀", "ß"),
    ],
)
def test_reasoning_stands_between_markers_at_the_beginning(text, starts_inside, reasoning, content):
    assert parsed([text], starts_inside=starts_inside) == both(reasoning, content)
    assert parsed(list(text), starts_inside=starts_inside) == both(reasoning, content)


def test_mistral_has_markers_of_its_own():
    assert parsed(["[THINK]a <think>[/THI", "NK]b"], name="mistral") == both("a <think>", "b")


def test_text_is_given_as_soon_as_it_is_known_what_it_is():
    parser = ReasoningParser(*MARKERS["think"])
    steps = [
        (" ", []), ("<thi", []), ("nk>\n", []), ("one\n", [Reasoning("one")]), ("\ntwo <", [Reasoning("\n\ntwo ")]),
        ("b> </think", [Reasoning("<b> ")]), (">\n", []), ("\nyes\n", [Content("yes\n")]),
        ("<think>", [Content("<think>")]),
    ]  # fmt: skip
    for piece, given_then in steps:
        assert parser.push(piece) == given_then
    assert parser.finish() == []


TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<thi", "</", "\n", " ", "a", "é"]), max_size=10).map("".join)


@given(text=TEXTS, starts_inside=st.booleans(), data=st.data())
@settings(SETTINGS, max_examples=500)
def test_where_the_text_is_cut_changes_nothing_that_was_given_by_then(text, starts_inside, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    in_pieces, by_character = (ReasoningParser(*MARKERS["think"], starts_inside=starts_inside) for _ in range(2))
    given_so: list[Content | Reasoning] = []
    expected: list[Content | Reasoning] = []
    for piece in pieces:
        given_so += in_pieces.push(piece)
        expected += [delta for character in piece for delta in by_character.push(character)]
        assert merged(given_so) == merged(expected)
    assert merged(given_so + in_pieces.finish()) == merged(expected + by_character.finish())


def told_apart(text: str, *, starts_inside: bool) -> list[Content | Reasoning]:
    """The plain way, with the whole text at hand."""
    opening = re.match(r"\s*<think>", text)
    if opening is None and not starts_inside:
        return both("", text)
    reasoning, closing, content = text[opening.end() if opening else 0 :].partition("</think>")
    return both(reasoning.strip("\n"), content.lstrip("\n")) if closing else both(reasoning.lstrip("\n"), "")


@given(text=TEXTS, starts_inside=st.booleans())
@settings(SETTINGS, max_examples=500)
def test_only_markers_and_line_breaks_beside_them_are_left_out(text, starts_inside):
    assert parsed([text], starts_inside=starts_inside) == told_apart(text, starts_inside=starts_inside)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, "none"),
        ("{{ messages }}", "none"),
        ("{%- if enable_thinking is false %}<think>\n\n</think>{% endif %}", "think"),
        ("{{ content.split('</think>')[-1] }}", "think"),
        ("[SYSTEM_PROMPT]... [THINK]...[/THINK]", "mistral"),
    ],
)
def test_the_template_shows_whether_a_model_reasons(template, name):
    assert reasoning_for(template) == name


@pytest.mark.parametrize(
    ("prompt", "deltas"),
    [
        ("<|im_start|>assistant\n<think>\n", both("a", "b")),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", both("", "a</think>b")),
        ("<|im_start|>assistant\n", both("", "a</think>b")),
    ],
)
def test_a_prompt_that_opens_the_reasoning_is_recognised(prompt, deltas):
    parser = new_reasoning_parser("think", prompt)
    assert parser is not None
    assert merged([*parser.push("a</think>b"), *parser.finish()]) == deltas


def test_a_model_that_does_not_reason_has_no_parser():
    assert new_reasoning_parser("none", "<think>") is None


ANSWER = (
    '<think>\nI call <tool_call>{"name": "f"}</tool_call>.\n</think>\n\nNow:\n'
    '<tool_call>\n{"name": "f", "arguments": {"a": "</think>"}}\n</tool_call>'
)


@pytest.mark.parametrize(
    ("reasons", "calls", "expected"),
    [
        (
            True, True,
            [
                Reasoning('I call <tool_call>{"name": "f"}</tool_call>.'), Content("Now:\n"), CallStart(0, "f"),
                CallArguments(0, '{"a": "</think>"}'),
            ],
        ),
        (True, False, [
            Reasoning('I call <tool_call>{"name": "f"}</tool_call>.'), Content(ANSWER[ANSWER.index("Now") :]),
        ]),
        (False, True, [
            Content("<think>\nI call "), CallStart(0, "f"), CallArguments(0, "{}"), Content(".\n</think>\n\nNow:\n"),
            CallStart(1, "f"), CallArguments(1, '{"a": "</think>"}'),
        ]),
        (False, False, [Content(ANSWER)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_characters", [1, 7, 1000])
def test_calls_are_looked_for_in_what_is_no_reasoning(reasons, calls, expected, n_characters):
    reply = ReplyParser(
        new_reasoning_parser("think" if reasons else "none", ""), new_parser("hermes" if calls else "none", ["f"])
    )
    deltas: list[Any] = []
    for at in range(0, len(ANSWER), n_characters):
        deltas += reply.push(ANSWER[at : at + n_characters])
    assert merged(deltas + reply.finish()) == expected
