# SPDX-License-Identifier: Apache-2.0
"""A request of LMI in the words of TensorRT-LLM, and its outputs in those of LMI."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

from lmi.api import Constraint, Finish, FinishReason, GenerationRequest, LmiError, RequestError, TokenLogprob
from lmi_trtllm.messages import first_line
from lmi_trtllm.symbols import PENALTY_START


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a request that the library answers in one go.

    Until ``min_tokens`` no id may end the text, and the library knows of one such id only: so that part is a request of
    its own, in which they are forbidden, and what follows is another one.

    Args:
        before: ids that were produced before, and are read as a part of the prompt.
        max_tokens: most ids of this part.
        can_end: whether an id may end the text.
    """

    before: Sequence[int]
    max_tokens: int
    can_end: bool


def next_leg(request: GenerationRequest, produced: Sequence[int]) -> Leg:
    """What is to be asked for next.

    Args:
        request: one sequence.
        produced: its ids so far, resumed ones included.
    """
    sampling, n_output = request.sampling, len(produced)
    if n_output < sampling.min_tokens:
        end = min(sampling.min_tokens, sampling.max_tokens)
        return Leg(before=tuple(produced), max_tokens=end - n_output, can_end=False)
    return Leg(before=tuple(produced), max_tokens=sampling.max_tokens - n_output, can_end=True)


def end_ids(request: GenerationRequest, eos_token_ids: Sequence[int]) -> list[int]:
    """Ids that end a request."""
    eos = () if request.sampling.ignore_eos else eos_token_ids
    return list(dict.fromkeys([*eos, *request.sampling.stop_token_ids]))


def sampling_params(
    request: GenerationRequest, leg: Leg, eos_token_ids: Sequence[int], vocab_size: int
) -> SamplingParams:
    """What the library is asked for: ids only, each of them, the last one included.

    Its ``end_id`` is one id, and is left out of the output by one of its ways: ids that end a text are stop ids here.

    Args:
        request: one sequence.
        leg: the part of it.
        eos_token_ids: what ends it, unless it ignores that.
        vocab_size: length of a bias.
    Raises:
        RequestError: the library refuses a value; it is named.
    """
    asked, ends = request.sampling, end_ids(request, eos_token_ids)
    bad = list(dict.fromkeys([*asked.bad_token_ids, *(() if leg.can_end else ends)]))
    any_id = eos_token_ids[0] if eos_token_ids else 0  # must be given, and is ignored
    keywords: dict[str, Any] = {
        "max_tokens": leg.max_tokens,
        "end_id": any_id,
        "pad_id": any_id,
        "ignore_eos": True,
        "stop_token_ids": (ends if leg.can_end else []) or None,
        "include_stop_str_in_output": True,
        "bad_token_ids": bad or None,
        "detokenize": False,
        "embedding_bias": _bias(asked.logit_bias, vocab_size),
        "guided_decoding": None if asked.constraint is None else _guide(asked.constraint),
        "return_generation_logits": asked.n_logprobs is not None,
        "return_context_logits": asked.n_prompt_logprobs is not None and not leg.before,
        **_draw(request, len(leg.before)),
        **_penalties(request),
    }
    try:
        return SamplingParams(**keywords)
    except (ValueError, TypeError) as error:
        raise refused(error) from error


def _draw(request: GenerationRequest, n_before: int) -> dict[str, Any]:
    asked = request.sampling
    if not asked.temperature:
        return {"top_k": 1}
    # Neither limit would mean the most likely id alone: a share of 1 says that all are meant.
    drawn: dict[str, Any] = {"temperature": asked.temperature, "top_k": asked.top_k, "top_p": asked.top_p}
    if asked.min_p:
        drawn["min_p"] = asked.min_p
    if asked.seed is not None:  # its generator begins anew with each request: a later part draws other numbers
        drawn["seed"] = (asked.seed + n_before) & (2**63 - 1)
    return drawn


def _penalties(request: GenerationRequest) -> dict[str, Any]:
    asked = request.sampling
    given: dict[str, Any] = {}
    if asked.repetition_penalty != 1.0:
        given["repetition_penalty"] = asked.repetition_penalty
    if asked.presence_penalty or asked.frequency_penalty:
        given["presence_penalty"] = asked.presence_penalty
        given["frequency_penalty"] = asked.frequency_penalty
        given[PENALTY_START] = len(request.prompt_ids)  # those of LMI are of the output alone
    return given


def _bias(bias: dict[int, float], vocab_size: int) -> Any:
    if not bias:
        return None
    wrong = next((each for each in bias if not 0 <= each < vocab_size), None)
    if wrong is not None:
        raise RequestError("request.invalid", f"logit_bias has the id {wrong}; ids go from 0 to {vocab_size - 1}")
    values = torch.zeros(vocab_size, dtype=torch.float32)
    values[list(bias)] = torch.tensor(list(bias.values()), dtype=torch.float32)
    return values


def _guide(constraint: Constraint) -> GuidedDecodingParams:
    kind, source = constraint.kind, constraint.source
    if kind == "json_schema":
        return GuidedDecodingParams(json=source)
    if kind == "regex":
        return GuidedDecodingParams(regex=source)
    if kind == "choice":
        return GuidedDecodingParams(regex="|".join(re.escape(str(each)) for each in json.loads(source)))
    if kind == "grammar":
        return GuidedDecodingParams(grammar=source)
    raise RequestError("request.invalid", f"a constraint of the kind {kind!r} is not known")


def refused(error: Exception) -> RequestError:
    """The library's refusal of a request."""
    return RequestError("request.invalid", f"TensorRT-LLM refuses the request: {first_line(error)}")


# ------------------------------------------------------------------------------------------------------------ outputs


def scored(ids: Sequence[int], logits: Any, n_top: int) -> list[TokenLogprob]:
    """Log probabilities of ids, from the logits that the model gave for their places.

    Args:
        ids: the chosen ones.
        logits: the last of its rows belong to them, in order.
        n_top: how many of the most likely ids go along.
    Raises:
        LmiError: there are fewer rows than ids.
    """
    n_rows = 0 if logits is None else logits.numel() // logits.shape[-1]
    if n_rows < len(ids):
        message = f"TensorRT-LLM gave logits of {n_rows} places for {len(ids)} ids"
        raise LmiError("engine.failed", message, "Ask for no log probabilities")
    rows = logits.reshape(n_rows, -1)[n_rows - len(ids) :].float().log_softmax(-1)
    own = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])
    ranks = ((rows > own).sum(-1) + 1).tolist()
    best, best_ids = rows.topk(min(n_top, rows.shape[-1]), -1)
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(best_ids.tolist(), best.tolist(), strict=True)]
    values = own[:, 0].tolist()
    return [TokenLogprob(*each) for each in zip(ids, values, ranks, tops, strict=True)]


def prompt_logprobs(request: GenerationRequest, logits: Any) -> list[TokenLogprob | None]:
    """One entry a prompt id, None for the first: each place has the logits of the id after it."""
    ids = request.prompt_ids
    before = None if logits is None or len(ids) < 2 else logits.reshape(-1, logits.shape[-1])[: len(ids) - 1]
    return [None, *(scored(ids[1:], before, request.sampling.n_prompt_logprobs or 0) if len(ids) > 1 else [])]


def finish_of(output: Any, request: GenerationRequest, last: int | None, eos_token_ids: Sequence[int]) -> Finish:
    """Why the library ended a request.

    Args:
        output: its answer.
        request: one sequence.
        last: the last id there is.
        eos_token_ids: of the model.
    Raises:
        LmiError: it ended with a reason of its own.
    """
    reason = output.finish_reason
    if reason == "length":
        return Finish(FinishReason.LENGTH)
    if reason == "stop":
        ending = output.stop_reason if isinstance(output.stop_reason, int) else last
        is_stop = ending in request.sampling.stop_token_ids and (
            ending not in eos_token_ids or request.sampling.ignore_eos
        )
        return Finish(FinishReason.STOP_TOKEN if is_stop else FinishReason.EOS, ending)
    if reason == "cancelled":
        return Finish(FinishReason.CANCELLED)
    raise LmiError("engine.failed", f"TensorRT-LLM ended the request with {reason!r}", "The worker's log says more")
