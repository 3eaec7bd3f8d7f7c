# SPDX-License-Identifier: Apache-2.0
"""Calls that are written as JSON, given while they are being written.

Until it is sure that there is a call, what was read is held; where there is none, it is content. That it is sure means:
its name is known and its arguments begin. From there on nothing can be taken back, so a call whose arguments turn out
to be malformed keeps those before the fault, and the rest is content.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lmi.serving.tools.deltas import Deltas
from lmi.serving.tools.json_text import read_sign, read_string, read_value
from lmi.serving.tools.reader import Ended, Malformed, Reader, Reading, captured

_ARGUMENTS = ("arguments", "parameters")
_OF_CALLS = ("name", *_ARGUMENTS, "id", "type")


@dataclass
class _Call:
    """What is known of a call.

    Args:
        name: None while it is not known.
        arguments: their text, as far as it has been read; None before them.
        is_given: it has begun among the deltas, which have its arguments, too.
    """

    name: str | None = None
    arguments: list[str] | None = None
    is_given: bool = False


@dataclass(frozen=True)
class Rules:
    """What a format takes for a call.

    Args:
        tool_names: the tools of the request.
        is_streamed: a call is given as soon as it is sure that it is one; otherwise once it is whole, so that a
            malformed one is content from its beginning.
        is_strict: an object is no call if its name is not among the tools, if it has no arguments, or if it has
            members that calls do not have.
    """

    tool_names: Collection[str]
    is_streamed: bool
    is_strict: bool


class CallReader(Reader):
    """Reads content and calls into ``deltas``.

    Args:
        rules: what counts as a call.
    """

    __slots__ = ("_held", "_is_holding", "_rules", "deltas")

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.deltas = Deltas()
        self._rules = rules
        self._held: list[str] = []
        self._is_holding = False

    # -------------------------------------------------------------------------------- what may turn out to be content

    def hold(self) -> None:
        """Hold what is read from here on, until it is known what it is."""
        if not self._is_holding:
            self._is_holding = True
            self.begin(self._hold)

    def drop(self) -> None:
        """What is held belongs to a call's format."""
        if self._is_holding:
            self._is_holding = False
            self.end(self._hold)
            self._held = []

    def release(self) -> None:
        """What is held is content."""
        if self._is_holding:
            self.flush()
            self.deltas.content("".join(self._held))
            self.drop()

    def _hold(self, written: str, _: str) -> None:
        self._held.append(written)

    # --------------------------------------------------------------------------------------------- between the calls

    def content_until(self, marker: str) -> Reading[bool]:
        """Read content up to a marker and hold the marker; say whether there is one."""
        is_there = yield from self.until(marker, self.deltas.content)
        if is_there:
            self.hold()
            self.at += len(marker)
        return is_there

    def after_call(self, *choices: str) -> Reading[str]:
        """Read what may follow a call, whitespace around it included.

        Returns:
            The one that is there, which is held; or "", and what was read is content.
        """
        self.hold()
        try:
            yield from self.space()
            for words in choices:
                if (yield from self.literal(words)):
                    return words
        except Ended:
            self.drop()  # the rest of the format of a call that is complete
            raise
        self.release()
        return ""

    def to_next_call(self) -> Reading[None]:
        """Read whitespace after what stands between two calls."""
        try:
            yield from self.space()
        except Ended:
            self.drop()
            raise

    def closed(self, closing: str) -> Reading[bool]:
        """Read what closes a call, if it is there; say whether it is."""
        is_there = bool((yield from self.after_call(closing)))
        self.drop()
        return is_there

    # ------------------------------------------------------------------------------------------------------- one call

    def call(self) -> Reading[bool]:
        """Read a call that is written as an object with its name and arguments; say whether it is a whole one.

        Where it is not, everything held is content.
        """
        self.hold()
        call = _Call()
        return (yield from self._completed(call, self._read_object(call)))

    def arguments_of(self, name: str, before: Reading[None]) -> Reading[bool]:
        """Read the arguments of a call whose name is known, and what stands before them; otherwise as ``call``."""
        self.hold()
        call = _Call(name)
        return (yield from self._completed(call, self._read_arguments(call, before)))

    def calls(self) -> Reading[bool]:
        """Read calls after the bracket that opens a list of them; say whether the list is whole."""
        yield from self.space()
        is_whole = yield from self.call()
        while is_whole:
            following = yield from self.after_call(",", "]")
            if following != ",":
                self.drop()
                return bool(following)
            yield from self.to_next_call()
            is_whole = yield from self._next_call()
        return False

    def _next_call(self) -> Reading[bool]:
        """As ``call``; the beginning of one that the text ends in is no content: it goes on with a list of calls."""
        try:
            return (yield from self.call())
        except Ended:
            self.drop()
            raise

    def _completed(self, call: _Call, reading: Reading[None]) -> Reading[bool]:
        """Read a call and see to it that it is given, or what was held is."""
        try:
            yield from reading
            if not self._is_sure(call):
                raise Malformed
        except Ended:
            if self._is_sure(call):
                self._give(call)
            raise
        except Malformed:
            self.release()
            return False
        self._give(call, "{}")
        return True

    def _is_sure(self, call: _Call) -> bool:
        return call.name is not None and (call.arguments is not None or not self._rules.is_strict)

    def _give(self, call: _Call, default: str = "") -> None:
        """Give the call, if it is not with the deltas already. What is held belongs to its format."""
        self.drop()
        if not call.is_given:
            self.deltas.start(call.name or "")
            self.deltas.arguments(default if call.arguments is None else "".join(call.arguments))

    # ------------------------------------------------------------------------------------------- the parts of an object

    def _read_object(self, call: _Call) -> Reading[None]:
        if (yield from self.peek()) != "{":
            raise Malformed
        self.at += 1
        yield from self.space()
        is_last = self.text[self.at] == "}"
        while not is_last:
            key = _value_of((yield from captured(self, read_string(self), [])))
            if self._rules.is_strict and key not in _OF_CALLS:
                raise Malformed
            yield from read_sign(self, ":")
            yield from self._read_member(call, key)
            yield from self.space()
            is_last = self.text[self.at] == "}"
            if not is_last:
                yield from read_sign(self, ",")
        self.at += 1

    def _read_member(self, call: _Call, key: str) -> Reading[None]:
        if key == "name" and call.name is None:
            call.name = self._judged(_value_of((yield from captured(self, read_string(self), []))))
        elif key in _ARGUMENTS and call.arguments is None:
            yield from self._read_arguments(call)
        else:
            yield from read_value(self)

    def _judged(self, name: str) -> str:
        is_text = name.isprintable()  # half a surrogate pair, among others, is not
        if not name or not is_text or (self._rules.is_strict and name not in self._rules.tool_names):
            raise Malformed
        return name

    def _read_arguments(self, call: _Call, before: Reading[None] | None = None) -> Reading[None]:
        """Read an object; or one inside a string, or null for none, as some models write it."""
        if before is not None:
            yield from before
        first = yield from self.peek()
        if first == "{":
            call.arguments = []
            if call.name is not None and self._rules.is_streamed:
                yield from self._stream_arguments(call)
            else:
                yield from captured(self, read_value(self), call.arguments)
        elif first == '"':
            text = _value_of((yield from captured(self, read_string(self), [])))
            if not isinstance(_value_of(text), dict):
                raise Malformed
            call.arguments = [text]
        elif first == "n":
            yield from read_value(self)
            call.arguments = ["{}"]
        else:
            raise Malformed

    def _stream_arguments(self, call: _Call) -> Reading[None]:
        """Give the arguments while they are read; what follows them is held again."""
        self.drop()
        self.deltas.start(call.name or "")
        call.is_given = True
        self.begin(self._give_arguments)
        try:
            yield from read_value(self)
        finally:
            self.end(self._give_arguments)
        self.hold()

    def _give_arguments(self, _: str, shown: str) -> None:
        self.deltas.arguments(shown)


def _value_of(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refused)
        text.encode()
    except (ValueError, RecursionError):
        raise Malformed from None
    return value


def _refused(name: str) -> None:
    raise ValueError(name)
