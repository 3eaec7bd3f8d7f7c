# SPDX-License-Identifier: Apache-2.0
"""Stand-in: what a request asks for, as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class GuidedDecodingParams:
    json: Any = None
    regex: Any = None
    grammar: Any = None
    json_object: Any = False


@dataclass(kw_only=True)
class SamplingParams:
    n: Any = 1
    best_of: Any = None
    use_beam_search: Any = False
    beam_search_diversity_rate: Any = None
    early_stopping: Any = None
    max_tokens: Any = 32
    min_tokens: Any = None
    end_id: Any = None
    pad_id: Any = None
    seed: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    top_p_decay: Any = None
    top_p_min: Any = None
    top_p_reset_ids: Any = None
    min_p: Any = None
    repetition_penalty: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    length_penalty: Any = None
    no_repeat_ngram_size: Any = None
    stop: Any = None
    stop_token_ids: Any = None
    include_stop_str_in_output: Any = False
    bad: Any = None
    bad_token_ids: Any = None
    logits_processor: Any = None
    apply_batched_logits_processor: Any = False
    guided_decoding: Any = None
    embedding_bias: Any = None
    lookahead_config: Any = None
    ignore_eos: Any = False
    detokenize: Any = True
    add_special_tokens: Any = True
    truncate_prompt_tokens: Any = None
    skip_special_tokens: Any = True
    spaces_between_special_tokens: Any = True
    logprobs: Any = None
    prompt_logprobs: Any = None
    return_context_logits: Any = False
    return_generation_logits: Any = False
    exclude_input_from_output: Any = True
    return_encoder_output: Any = False
    additional_model_outputs: Any = None
    return_perf_metrics: Any = False
    beam_width_array: Any = None
    prompt_ignore_length: Any = None
