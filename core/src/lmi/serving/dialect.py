# SPDX-License-Identifier: Apache-2.0
"""How one model answers requests in LMI's schema: by itself, in dynamic batches, or as text-generation-inference does.

Source: the LMI input and output schema, as DJL Serving 0.26 to 0.29 speaks it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmi.serving import tgi
from lmi.serving.answers import PLAIN, Writing, outputs_writer
from lmi.serving.errors import lmi_status_of, status_of, tgi_body_of
from lmi.serving.streaming import DONE, EVENT_STREAM, JSON_LINES, LINES, LMI_EVENTS, Form

if TYPE_CHECKING:
    from lmi.loading import LoadPlan

_EVENTS_TYPE = EVENT_STREAM.decode().partition(";")[0]
_LINES_TYPE = JSON_LINES.decode()


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a model answers.

    Args:
        lines, events: forms of a stream.
        streams_in: the one of the two that is taken where the caller has no wish.
        streams_unasked: every answer is a stream.
        in_list: one answer is a list of one.
        is_tgi: it speaks as text-generation-inference does.
        drops_unknown: parameters that nobody knows or the backend does not offer are left out.
        writing: what answers are made of.
    """

    lines: Form = LINES
    events: Form = LMI_EVENTS
    streams_in: Form = LINES
    streams_unasked: bool = False
    in_list: bool = False
    is_tgi: bool = False
    drops_unknown: bool = False
    writing: Writing = PLAIN

    @classmethod
    def of(cls, plan: LoadPlan) -> Dialect:
        """How a model answers, as its options say."""
        options = plan.options
        status = lmi_status_of if options.error_status == "lmi" else status_of
        lines, events = (dataclasses.replace(form, status=status) for form in (LINES, LMI_EVENTS))
        writing = PLAIN
        if plan.is_batched and options.enable_streaming != "false":
            writing = dataclasses.replace(PLAIN, lines=outputs_writer)
        if options.tgi_compat:
            lines, events = (dataclasses.replace(form, error_body=tgi_body_of) for form in (lines, events))
            writing = tgi.WRITING
        formatter = options.output_formatter
        has_events = formatter == "sse" or (options.tgi_compat and formatter != "jsonlines")
        return cls(
            lines=lines,
            events=events,
            streams_in=events if has_events else lines,
            streams_unasked=formatter in ("jsonlines", "sse"),
            in_list=plan.is_batched or options.tgi_compat,
            is_tgi=options.tgi_compat,
            drops_unknown=options.unknown_parameters == "warn",
            writing=writing,
        )

    def stream_form(self, accept: str) -> Form:
        """The form of a stream.

        Args:
            accept: the content types that the caller takes, as its header has them.
        """
        takes_events, takes_lines = _EVENTS_TYPE in accept, _LINES_TYPE in accept
        if takes_events is takes_lines:
            return self.streams_in
        return self.events if takes_events else self.lines

    def chat_form(self, accept: str) -> Form:
        """The form of a stream that answers one of OpenAI's bodies."""
        form = self.stream_form(accept)
        return dataclasses.replace(form, last=DONE) if form is self.events else form


def takes_lines(accept: str) -> bool:
    """Whether the caller wants a whole answer as lines."""
    return bool(accept) and _LINES_TYPE in accept and "application/json," not in f"{accept},".replace(" ", "")
