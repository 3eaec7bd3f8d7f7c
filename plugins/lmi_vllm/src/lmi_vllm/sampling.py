# SPDX-License-Identifier: Apache-2.0
"""A request of LMI in the words of vLLM, and vLLM's outputs in those of LMI."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.envs import VLLM_MAX_BAD_WORDS_TOTAL_TOKENS, VLLM_MAX_NUM_BAD_WORDS
from vllm.exceptions import VLLMValidationError
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from lmi.api import Constraint, Finish, FinishReason, GenerationRequest, LmiError, RequestError, TokenLogprob
from lmi_vllm.messages import first_line

_NEVER = -math.inf


def sampling_params(request: GenerationRequest, eos_token_ids: Collection[int]) -> SamplingParams:
    """What vLLM is asked for: ids only, as they come; lengths are those that are left after the resumed ids.

    Args:
        request: one sequence.
        eos_token_ids: what ends it, unless it ignores that; empty leaves it to vLLM.
    Raises:
        RequestError: vLLM refuses a value; it is named.
    """
    asked, n_resumed = request.sampling, len(request.resumed_ids)
    stop_token_ids = list(asked.stop_token_ids)
    if not asked.ignore_eos:
        stop_token_ids += [token_id for token_id in eos_token_ids if token_id not in stop_token_ids]
    bias = {**asked.logit_bias, **dict.fromkeys(asked.bad_token_ids, _NEVER)}
    try:
        return SamplingParams(
            max_tokens=asked.max_tokens - n_resumed,
            min_tokens=max(0, asked.min_tokens - n_resumed),
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=bias or None,
            _bad_words_token_ids=_bad_words(asked.bad_word_ids),
            stop_token_ids=stop_token_ids,
            ignore_eos=asked.ignore_eos or bool(eos_token_ids),
            seed=_seed(asked.seed, n_resumed),
            logprobs=asked.n_logprobs,
            # Those of the prompt went out with the first chunk.
            prompt_logprobs=None if n_resumed else asked.n_prompt_logprobs,
            structured_outputs=None if asked.constraint is None else _structure(asked.constraint),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
    except (VLLMValidationError, ValueError) as error:
        raise refused(error) from error


def _bad_words(sequences: Sequence[tuple[int, ...]]) -> list[list[int]] | None:
    """Sequences of ids that must not come, in the field that vLLM keeps them in.

    Its public ``bad_words`` takes texts, and of a word after a blank it knows only forms of as many tokens as the word
    alone has: it would let others pass.

    Raises:
        ValueError: there are more than vLLM has room for; its engine would not survive them.
    """
    n_tokens = sum(map(len, sequences))
    if len(sequences) > VLLM_MAX_NUM_BAD_WORDS or n_tokens > VLLM_MAX_BAD_WORDS_TOTAL_TOKENS:
        raise ValueError(
            f"bad_words come to {len(sequences)} sequences of {n_tokens} tokens; it takes {VLLM_MAX_NUM_BAD_WORDS} of "
            f"{VLLM_MAX_BAD_WORDS_TOTAL_TOKENS} (the variables VLLM_MAX_NUM_BAD_WORDS, VLLM_MAX_BAD_WORDS_TOTAL_TOKENS)"
        )
    return [list(ids) for ids in sequences] or None


def refused(error: Exception) -> RequestError:
    """vLLM's refusal of a request."""
    return RequestError("request.invalid", f"vLLM refuses the request: {first_line(error)}")


def _seed(seed: int | None, n_resumed: int) -> int | None:
    """vLLM's generator begins anew with each request: a resumed one must not draw the same numbers again."""
    if seed is None:
        return None
    # -1 means "none" to vLLM, and its generators take 63 bits everywhere.
    return (seed + n_resumed) & (2**63 - 1)


def _structure(constraint: Constraint) -> StructuredOutputsParams:
    kind, source = constraint.kind, constraint.source
    if kind == "json_schema":
        return StructuredOutputsParams(json=source)
    if kind == "regex":
        return StructuredOutputsParams(regex=source)
    if kind == "choice":
        return StructuredOutputsParams(choice=json.loads(source))
    if kind == "grammar":
        return StructuredOutputsParams(grammar=source)
    raise ValueError(f"a constraint of the kind {kind!r} is not known")


def token_logprobs(output: CompletionOutput, n_top: int) -> list[TokenLogprob] | None:
    """One entry an id of this output; None where none were asked for."""
    if output.logprobs is None:
        return None
    return [_entry(token_id, found, n_top) for token_id, found in zip(output.token_ids, output.logprobs, strict=True)]


def prompt_logprobs(ids: Sequence[int], found: Sequence[Any], n_top: int) -> list[TokenLogprob | None]:
    """One entry a prompt id, None for the first."""
    return [None if each is None else _entry(token_id, each, n_top) for token_id, each in zip(ids, found, strict=True)]


def _entry(token_id: int, found: Mapping[int, Any], n_top: int) -> TokenLogprob:
    own = found[token_id]
    if not n_top:
        return TokenLogprob(token_id, min(0.0, own.logprob), own.rank or 0)
    best = sorted(((each.logprob, other) for other, each in found.items()), key=lambda pair: -pair[0])[:n_top]
    top = tuple((other, min(0.0, logprob)) for logprob, other in best)
    return TokenLogprob(token_id, min(0.0, own.logprob), own.rank or 0, top)


def finish_of(output: CompletionOutput, request: GenerationRequest, eos_token_ids: Collection[int]) -> Finish:
    """Why vLLM ended the request.

    Raises:
        RequestError: its constraint could not be kept.
        LmiError: it ended with an error of its own.
    """
    reason = output.finish_reason
    if reason == "length":
        return Finish(FinishReason.LENGTH)
    if reason == "stop":
        last = output.stop_reason if isinstance(output.stop_reason, int) else next(reversed(output.token_ids), None)
        is_stop = last in request.sampling.stop_token_ids and last not in eos_token_ids
        return Finish(FinishReason.STOP_TOKEN if is_stop else FinishReason.EOS, last)
    if reason == "abort":
        return Finish(FinishReason.CANCELLED)
    text = f"vLLM ended the request with {reason!r}"
    if request.sampling.constraint is not None:
        text += ", as it does where no id that may follow keeps to the constraint (bad words, biases)"
        raise RequestError("request.constraint-failed", text, "Change the constraint or the rest")
    raise LmiError("engine.failed", text, "The worker's log says more")
