# SPDX-License-Identifier: Apache-2.0
"""A response cache in the server, on text: what was answered once is answered again, and no worker hears of it."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from lmi.api import TextRequest, hookimpl

MAX_ANSWERS = 10_000
PIECES = "answer_cache.pieces"
answers: OrderedDict[bytes, str] = OrderedDict()


@hookimpl(trylast=True)  # what other extensions make of the request decides the answer
def lmi_filter_request(request: TextRequest) -> None:
    key = key_of(request)
    if key is not None and key in answers:
        answers.move_to_end(key)
        request.answer = answers[key]


@hookimpl(tryfirst=True)  # keep what was generated: the others filter it again when it is given again
def lmi_filter_text(request: TextRequest, text: str, is_last: bool) -> None:
    key = key_of(request)
    if key is None or request.answer is not None:
        return
    pieces: list[str] = request.scratch.setdefault(PIECES, [])
    pieces.append(text)
    if is_last:  # a request that failed, or whose client left, never gets here
        answers[key] = "".join(pieces)
        while len(answers) > MAX_ANSWERS:
            answers.popitem(last=False)


def key_of(request: TextRequest) -> bytes | None:
    """What decides the answer; None if nothing does, or if the caller wants more than text."""
    sampling = request.sampling
    is_drawn_anew = sampling.temperature > 0 and sampling.seed is None
    if is_drawn_anew or sampling.n_logprobs or sampling.n_prompt_logprobs is not None:
        return None
    decisive = msgspec.structs.replace(sampling, n_logprobs=None)
    return msgspec.msgpack.encode((request.model, request.adapter, request.prompt, request.stop_sequences, decisive))
