# SPDX-License-Identifier: Apache-2.0
"""Which model families each loader takes. Families are ``model_type`` of config.json."""

from __future__ import annotations

TNX_FAMILIES = frozenset({
    "bloom", "code_llama", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "opt",
})  # fmt: skip
"""Families of Transformers-NeuronX. Source: LMI's guide, and the auto class of transformers-neuronx 0.13."""

OPTIMUM_FAMILIES = frozenset({
    "granite", "llama", "llama4_text", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
})  # fmt: skip
"""Families that optimum-neuron 0.4 compiles for generation. Source: its decoder registry."""

FORMER_OPTIMUM_FAMILIES = frozenset({"bloom", "gpt2", "mistral", "opt"})
"""Families that LMI once loaded through optimum-neuron, whose later versions no longer have them."""

CONTINUOUS_FAMILIES = frozenset({"code_llama", "llama", "mistral"})
"""Families with continuous batching by default; others use the naive rolling batch. Source: LMI's guide."""

TANH_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
"""Activations of a GPT BigCode that the library's GPT-2 computes; they are one function under three names."""

ARCHITECTURES = (
    "BloomForCausalLM",
    "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM",
    "GPTJForCausalLM",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "OPTForCausalLM",
    "GraniteForCausalLM",
    "Llama4ForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "SmolLM3ForCausalLM",
)
"""Class names of these families in config.json."""
