# SPDX-License-Identifier: Apache-2.0
"""Model families by the names that options and their documentation use, and the architectures the engine serves."""

from __future__ import annotations

from lmi.api import ModelArtifacts

_ARCHITECTURES_OF = {
    "llama": ("LlamaForCausalLM", "LLaMAForCausalLM"),
    "mistral": ("MistralForCausalLM",),
    "mixtral": ("MixtralForCausalLM",),
    "falcon": ("FalconForCausalLM", "RWForCausalLM"),
    "internlm": ("InternLMForCausalLM", "InternLM2ForCausalLM"),
    "baichuan": ("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    "chatglm": ("ChatGLMModel", "ChatGLMForConditionalGeneration", "GLMForConditionalGeneration", "GLMModel"),
    "gptj": ("GPTJForCausalLM",),
    "qwen": (
        "QWenLMHeadModel", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM",
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2LMHeadCustomModel", "GPTBigCodeForCausalLM", "Starcoder2ForCausalLM"),
    "phi": ("PhiForCausalLM", "Phi3ForCausalLM"),
    "opt": ("OPTForCausalLM",),
    "gemma": ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
}  # fmt: skip
"""Family -> class names in ``config.json``. Sources: LMI's list of models it compiles while loading, and its later
additions OPT and Gemma."""

_LATER_ARCHITECTURES = (
    "DeciLMForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "Exaone4ForCausalLM",
    "ExaoneMoEForCausalLM", "Glm4MoeForCausalLM", "GptOssForCausalLM", "MiniMaxM2ForCausalLM", "NemotronForCausalLM",
    "NemotronHForCausalLM", "NemotronNASForCausalLM", "Qwen3NextForCausalLM",
)  # fmt: skip
"""Further ones of TensorRT-LLM's PyTorch backend. Source: its page of supported models."""

PYTORCH_ARCHITECTURES = frozenset({
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Phi3ForCausalLM", "Starcoder2ForCausalLM", "Gemma3ForCausalLM",
    *_LATER_ARCHITECTURES,
})  # fmt: skip
"""What the library runs without building engines; of the others it builds them, in releases that still do. Source: its
page of supported models, and the registry of its PyTorch models."""

ARCHITECTURES = (*(name for names in _ARCHITECTURES_OF.values() for name in names), *_LATER_ARCHITECTURES)

BROUGHT_ARCHITECTURES = frozenset({
    *_ARCHITECTURES_OF["baichuan"], *_ARCHITECTURES_OF["chatglm"], *_ARCHITECTURES_OF["internlm"], "QWenLMHeadModel",
    "DeciLMForCausalLM", "NemotronNASForCausalLM", "GPT2LMHeadCustomModel",
})  # fmt: skip
"""Those that transformers does not have itself: their configuration is Python code that comes with the model."""

_BY_MODEL_TYPE = {
    "code_llama": "llama",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "internlm2": "internlm",
    "glm": "chatglm",
    "qwen2": "qwen",
    "qwen2_moe": "qwen",
    "qwen3": "qwen",
    "qwen3_moe": "qwen",
    "gpt_bigcode": "gpt2",
    "starcoder2": "gpt2",
    "phi3": "phi",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
}


def family_of(artifacts: ModelArtifacts) -> str:
    """The family a model is of, by its architecture, else its model_type; "" where nothing says."""
    for name in artifacts.architectures:
        for family, names in _ARCHITECTURES_OF.items():
            if name in names:
                return family
    return _BY_MODEL_TYPE.get(artifacts.model_type, artifacts.model_type)
