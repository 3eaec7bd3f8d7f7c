# SPDX-License-Identifier: Apache-2.0
"""Where an output is with the reasoning that comes before its answer."""

from __future__ import annotations

from lmi.api import ReasoningMarks


class ReasoningPlace:
    """Follows an output through its reasoning, id by id.

    ``may_begin`` says that the next id may open it, ``is_inside`` that the next id is part of it.

    Args:
        marks: the ids around it; None for an output that has none.
    """

    __slots__ = ("_marks", "is_inside", "may_begin")

    def __init__(self, marks: ReasoningMarks | None) -> None:
        self._marks = marks
        self.is_inside = marks is not None and marks.is_open
        self.may_begin = marks is not None and not marks.is_open

    @property
    def next_mark(self) -> int | None:
        """The mark that may come next, whatever else may; None for none."""
        if self._marks is None or not (self.is_inside or self.may_begin):
            return None
        return self._marks.end_id if self.is_inside else self._marks.start_id

    def takes(self, token_id: int) -> bool:
        """Take note of the next id; whether it belongs to the reasoning, its marks included."""
        mark = self.next_mark
        if self.is_inside:
            self.is_inside = token_id != mark
            return True
        self.is_inside, self.may_begin = self.may_begin and token_id == mark, False
        return self.is_inside
