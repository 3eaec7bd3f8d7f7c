# SPDX-License-Identifier: Apache-2.0
"""Everything of TensorRT-LLM that this plugin calls or reads; nothing else of it may be used.

Written against the 1.2 releases. ``guard`` looks for each of these in the one that is installed.
"""

from __future__ import annotations

from lmi.api import Symbol
from lmi_trtllm.arguments import EngineArguments
from lmi_trtllm.calls import MODULES, Call, Member, calls_in
from lmi_trtllm.paths import PYTORCH

ENGINE_MODULE = "tensorrt_llm._tensorrt_engine"
"""What releases without built engines lack."""

PENALTY_START = "prompt_ignore_length"
"""The field of SamplingParams that keeps penalties off the prompt; not every release has it."""

TIMING_CACHE = "output_timing_cache"
"""The field of BuildConfig that says where a build keeps how long each kernel took."""

_ARGUMENTS_OF = {PYTORCH: "TorchLlmArgs"}
_LLM_KEYWORDS = ("model", "tokenizer")

_SAMPLING = (
    "bad_token_ids", "detokenize", "embedding_bias", "end_id", "frequency_penalty", "guided_decoding", "ignore_eos",
    "include_stop_str_in_output", "max_tokens", "min_p", "pad_id", "presence_penalty", "repetition_penalty",
    "return_context_logits", "return_generation_logits", "seed", "stop_token_ids", "temperature", "top_k", "top_p",
)  # fmt: skip


def _read(module: str, name: str, *members: str) -> Symbol:
    return Symbol(module=module, name=name, members=members)


def _call(module: str, name: str, passed: tuple[str, ...] = (), keywords: tuple[str, ...] = ()) -> Symbol:
    return Symbol(module=module, name=name, passed=passed, keywords=keywords, called=True)


COMMON: tuple[Symbol, ...] = (
    _call("tensorrt_llm.sampling_params", "SamplingParams", keywords=_SAMPLING),
    _call("tensorrt_llm.sampling_params", "GuidedDecodingParams", keywords=("grammar", "json", "regex")),
    _read("tensorrt_llm.llmapi.llm", "RequestOutput", "__anext__", "abort", "context_logits", "outputs"),
    _read(
        "tensorrt_llm.executor.result", "CompletionOutput", "finish_reason", "generation_logits", "stop_reason",
        "token_ids",
    ),
)  # fmt: skip
"""What both ways need."""

_ADAPTER = _call(
    "tensorrt_llm.executor.request", "LoRARequest", keywords=("lora_int_id", "lora_name", "lora_path")
)  # fmt: skip


def symbols_of(arguments: EngineArguments) -> list[Symbol]:
    """What a start with these arguments, and every request after it, will use."""
    is_pytorch = arguments.way == PYTORCH
    module = "tensorrt_llm" if is_pytorch else ENGINE_MODULE
    kind = _ARGUMENTS_OF.get(arguments.way, "TrtLlmArgs")
    called = tuple(sorted({*_LLM_KEYWORDS, *arguments.keywords}))
    adapter = ("lora_request",) if arguments.n_adapters else ()
    return [
        _call("tensorrt_llm.llmapi.llm_args", kind, keywords=called),
        _call(module, "LLM.generate_async", ("inputs", "sampling_params"), ("streaming", *adapter)),
        _call(module, "LLM.shutdown"),
        *([] if is_pytorch else [_call(module, "LLM.save", ("engine_dir",))]),
        *(_symbol(each) for value in arguments.keywords.values() for each in calls_in(value)),
        *COMMON,
        *([_ADAPTER] if arguments.n_adapters else []),
    ]


def _symbol(each: Call | Member) -> Symbol:
    module = MODULES[each.name]
    if isinstance(each, Member):
        return _read(module, each.name, each.member)
    if each.name == "PluginConfig":
        return _read(module, each.name, *each.keywords)
    further = (TIMING_CACHE,) if each.name == "BuildConfig" else ()  # set where the build goes
    return _call(module, each.name, keywords=(*each.keywords, *further))
