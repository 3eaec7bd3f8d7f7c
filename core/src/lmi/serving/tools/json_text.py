# SPDX-License-Identifier: Apache-2.0
"""JSON, read as it comes: what is wrong is found with the first character that is wrong.

Source: RFC 8259. One thing is allowed that it forbids: control characters inside strings, which small models write for
line breaks; they are passed on as escapes.
"""

from __future__ import annotations

import re

from lmi.serving.tools.reader import Malformed, Reader, Reading

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_CLOSERS = {"{": "}", "[": "]"}
_WORDS = {"t": "true", "f": "false", "n": "null"}
_SHORT_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")

_DIGITS = "0123456789"
_NUMBER = {
    "": {"-": "sign", "0": "zero", **dict.fromkeys(_DIGITS[1:], "whole")},
    "sign": {"0": "zero", **dict.fromkeys(_DIGITS[1:], "whole")},
    "zero": {".": "point", "e": "e", "E": "e"},
    "whole": {**dict.fromkeys(_DIGITS, "whole"), ".": "point", "e": "e", "E": "e"},
    "point": dict.fromkeys(_DIGITS, "fraction"),
    "fraction": {**dict.fromkeys(_DIGITS, "fraction"), "e": "e", "E": "e"},
    "e": {"+": "power sign", "-": "power sign", **dict.fromkeys(_DIGITS, "power")},
    "power sign": dict.fromkeys(_DIGITS, "power"),
    "power": dict.fromkeys(_DIGITS, "power"),
}
"""What has been read of a number -> what each next character makes of it."""
_WHOLE_NUMBERS = frozenset(("zero", "whole", "fraction", "power"))


def read_value(reader: Reader) -> Reading[None]:
    """Read one value, and whitespace before it. Depth costs memory, no stack.

    Raises:
        Malformed: it is none.
        Ended: it is not complete.
    """
    closers: list[str] = []
    while True:
        yield from reader.space()
        opening = reader.text[reader.at]
        if opening in _CLOSERS:
            reader.at += 1
            yield from reader.space()
            if reader.text[reader.at] != _CLOSERS[opening]:
                closers.append(_CLOSERS[opening])
                if opening == "{":
                    yield from read_key(reader)
                continue
            reader.at += 1
        else:
            yield from _read_scalar(reader, opening)
        if not (yield from _goes_on(reader, closers)):
            return


def read_key(reader: Reader) -> Reading[None]:
    """Read a member's name and the colon after it."""
    yield from read_string(reader)
    yield from read_sign(reader, ":")


def read_sign(reader: Reader, sign: str) -> Reading[None]:
    """Read one character, and whitespace around it."""
    yield from reader.space()
    if reader.text[reader.at] != sign:
        raise Malformed
    reader.at += 1
    yield from reader.space()


def read_string(reader: Reader) -> Reading[None]:
    """Read a string with its quotes.

    Raises:
        Malformed: there is none, or an escape is none.
        Ended: it is not complete.
    """
    if (yield from reader.peek()) != '"':
        raise Malformed
    reader.at += 1
    while True:
        yield from reader.run(_PLAIN)
        character = reader.text[reader.at]
        if character < " ":
            reader.read_as(f"\\u{ord(character):04x}" if character not in "\n\t\r" else repr(character)[1:-1])
            continue
        reader.at += 1
        if character == '"':
            return
        yield from _read_escape(reader)


def _read_escape(reader: Reader) -> Reading[None]:
    kind = yield from reader.peek()
    if kind != "u" and kind not in _SHORT_ESCAPES:
        raise Malformed
    reader.at += 1
    for _ in range(4 if kind == "u" else 0):
        if (yield from reader.peek()) not in _HEX:
            raise Malformed
        reader.at += 1


def _read_scalar(reader: Reader, first: str) -> Reading[None]:
    if first == '"':
        yield from read_string(reader)
    elif first not in _WORDS:
        yield from _read_number(reader)
    else:
        for character in _WORDS[first]:
            if (yield from reader.peek()) != character:
                raise Malformed
            reader.at += 1


def _read_number(reader: Reader) -> Reading[None]:
    state = ""
    while True:
        following = _NUMBER[state].get((yield from reader.peek()))
        if following is None:
            break
        state = following
        reader.at += 1
    if state not in _WHOLE_NUMBERS:
        raise Malformed


def _goes_on(reader: Reader, closers: list[str]) -> Reading[bool]:
    """After a value: read what closes, and the comma; say whether a value follows."""
    while closers:
        yield from reader.space()
        character = reader.text[reader.at]
        if character == closers[-1]:
            reader.at += 1
            closers.pop()
        elif character == ",":
            reader.at += 1
            if closers[-1] == "}":
                yield from reader.space()
                yield from read_key(reader)
            return True
        else:
            raise Malformed
    return False
