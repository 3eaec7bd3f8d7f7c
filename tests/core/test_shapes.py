# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model, from the configurations that its makers published."""

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts, ModelShape, shape_of

LLAMA_2_13B = {
    "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
    "num_hidden_layers": 40, "num_key_value_heads": 40, "vocab_size": 32000,
}  # fmt: skip
LLAMA_3_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "vocab_size": 50257}
GPTJ_6B = {
    "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28, "rotary_dim": 64,
    "vocab_size": 50400,
}  # fmt: skip
GPT_NEOX_20B = {
    "model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576, "num_attention_heads": 64,
    "num_hidden_layers": 44, "vocab_size": 50432,
}  # fmt: skip
GPT_NEO_1B = {
    "model_type": "gpt_neo", "attention_types": [[["global", "local"], 12]], "hidden_size": 2048,
    "intermediate_size": None, "num_heads": 16, "num_layers": 24, "window_size": 256, "vocab_size": 50257,
}  # fmt: skip
BLOOM_7B = {
    "model_type": "bloom",
    "n_embed": 4096,
    "hidden_size": 4096,
    "n_layer": 30,
    "n_head": 32,
    "vocab_size": 250880,
}
BLOOM_OLDEST = {"model_type": "bloom", "n_embed": 1024, "num_attention_heads": 16, "n_layer": 24, "vocab_size": 250880}
BLOOM_OLD = {"model_type": "bloom", "hidden_size": 4096, "num_attention_heads": 32, "n_layer": 30, "vocab_size": 250880}
FALCON_7B = {
    "model_type": "falcon", "hidden_size": 4544, "multi_query": True, "new_decoder_architecture": False,
    "num_attention_heads": 71, "num_hidden_layers": 32, "num_kv_heads": 71, "vocab_size": 65024,
}  # fmt: skip
FALCON_40B = {
    "model_type": "falcon", "hidden_size": 8192, "multi_query": True, "new_decoder_architecture": True,
    "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8, "vocab_size": 65024,
}  # fmt: skip
FALCON_RW_1B = {
    "model_type": "falcon", "hidden_size": 2048, "multi_query": False, "new_decoder_architecture": False, "alibi": True,
    "num_attention_heads": 32, "num_hidden_layers": 24, "vocab_size": 50304,
}  # fmt: skip
MPT_7B = {
    "model_type": "mpt", "attn_config": {"alibi": True, "attn_type": "multihead_attention"}, "d_model": 4096,
    "expansion_ratio": 4, "n_heads": 32, "n_layers": 32, "vocab_size": 50432,
}  # fmt: skip
DBRX = {
    "model_type": "dbrx", "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000}, "d_model": 6144,
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}, "n_heads": 48, "n_layers": 40,
    "vocab_size": 100352,
}  # fmt: skip
CHATGLM3_6B = {
    "model_type": "chatglm", "ffn_hidden_size": 13696, "hidden_size": 4096, "kv_channels": 128,
    "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32, "num_layers": 28,
    "padded_vocab_size": 65024,
}  # fmt: skip
QWEN_7B = {
    "model_type": "qwen", "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128,
    "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 151936,
}  # fmt: skip
QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "max_window_layers": 28,
    "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 131072,
    "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
STARCODER = {
    "model_type": "gpt_bigcode", "multi_query": True, "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40,
    "vocab_size": 49152,
}  # fmt: skip
OPT_6B = {
    "model_type": "opt", "ffn_dim": 16384, "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "vocab_size": 50272, "word_embed_proj_dim": 4096,
}  # fmt: skip
PHI_2 = {
    "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "vocab_size": 51200,
}  # fmt: skip
GEMMA_7B = {
    "model_type": "gemma", "head_dim": 256, "hidden_size": 3072, "intermediate_size": 24576, "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 16, "vocab_size": 256000,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "sliding_window": None,
    "vocab_size": 32000,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "n_routed_experts": 256, "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
T5_LARGE = {
    "model_type": "t5", "d_ff": 4096, "d_kv": 64, "d_model": 1024, "num_heads": 16, "num_layers": 24,
    "vocab_size": 32128,
}  # fmt: skip
MISTRAL_PARAMS = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "vocab_size": 131072,
}  # fmt: skip
LLAVA_13B = {
    "model_type": "llava", "text_config": {
        "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
        "num_hidden_layers": 40, "num_key_value_heads": 40, "vocab_size": 32064,
    },
    "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}  # fmt: skip
LLAVA_7B = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}
GEMMA_3_4B = {
    "model_type": "gemma3", "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
}  # fmt: skip
OMNI = {
    "model_type": "qwen2_5_omni",
    "thinker_config": {"audio_config": {"d_model": 1280}, "text_config": {**QWEN2_7B, "model_type": "omni_text"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden", "intermediate", "vocab"),
    [
        pytest.param(LLAMA_2_13B, 40, 40, 40, 128, 5120, 13824, 32000, id="llama 2"),
        pytest.param(LLAMA_3_8B, 32, 32, 8, 128, 4096, 14336, 128256, id="llama 3"),
        pytest.param(GPT2, 12, 12, 12, 64, 768, 3072, 50257, id="gpt2"),
        pytest.param(GPTJ_6B, 28, 16, 16, 256, 4096, 16384, 50400, id="gptj"),
        pytest.param(GPT_NEOX_20B, 44, 64, 64, 96, 6144, 24576, 50432, id="gpt-neox"),
        pytest.param(GPT_NEO_1B, 24, 16, 16, 128, 2048, 8192, 50257, id="gpt-neo"),
        pytest.param(BLOOM_7B, 30, 32, 32, 128, 4096, 16384, 250880, id="bloom"),
        pytest.param(BLOOM_OLD, 30, 32, 32, 128, 4096, 16384, 250880, id="bloom, older names"),
        pytest.param(BLOOM_OLDEST, 24, 16, 16, 64, 1024, 4096, 250880, id="bloom, oldest names"),
        pytest.param(FALCON_7B, 32, 71, 1, 64, 4544, 18176, 65024, id="falcon 7b"),
        pytest.param(FALCON_40B, 60, 128, 8, 64, 8192, 32768, 65024, id="falcon 40b"),
        pytest.param(FALCON_RW_1B, 24, 32, 32, 64, 2048, 8192, 50304, id="falcon rw"),
        pytest.param(MPT_7B, 32, 32, 32, 128, 4096, 16384, 50432, id="mpt"),
        pytest.param(DBRX, 40, 48, 8, 128, 6144, 10752, 100352, id="dbrx"),
        pytest.param(CHATGLM3_6B, 28, 32, 2, 128, 4096, 13696, 65024, id="chatglm"),
        pytest.param(QWEN_7B, 32, 32, 32, 128, 4096, 11008, 151936, id="qwen"),
        pytest.param(QWEN2_7B, 28, 28, 4, 128, 3584, 18944, 152064, id="qwen2"),
        pytest.param(STARCODER, 40, 48, 1, 128, 6144, 24576, 49152, id="gpt-bigcode"),
        pytest.param(OPT_6B, 32, 32, 32, 128, 4096, 16384, 50272, id="opt"),
        pytest.param(PHI_2, 32, 32, 32, 80, 2560, 10240, 51200, id="phi"),
        pytest.param(GEMMA_7B, 28, 16, 16, 256, 3072, 24576, 256000, id="gemma"),
        pytest.param(MIXTRAL, 32, 32, 8, 128, 4096, 14336, 32000, id="mixtral"),
        pytest.param(DEEPSEEK_V3, 61, 128, 128, 192, 7168, 18432, 129280, id="deepseek v3"),
        pytest.param(T5_LARGE, 24, 16, 16, 64, 1024, 4096, 32128, id="t5"),
        pytest.param(MISTRAL_PARAMS, 40, 32, 8, 128, 5120, 14336, 131072, id="mistral's params.json"),
        pytest.param(LLAVA_13B, 40, 40, 40, 128, 5120, 13824, 32064, id="llava"),
        pytest.param(LLAVA_7B, 32, 32, 32, 128, 4096, 11008, 32064, id="llava, which leaves out what llama has"),
        pytest.param(GEMMA_3_4B, 34, 8, 4, 256, 2560, 10240, 262208, id="gemma 3, which leaves out heads"),
        pytest.param(OMNI, 28, 28, 4, 128, 3584, 18944, 152064, id="two levels down"),
        pytest.param({"encoder": T5_LARGE, "decoder": LLAMA_3_8B}, 32, 32, 8, 128, 4096, 14336, 128256, id="a decoder"),
        pytest.param({"pretrained_config": LLAMA_3_8B}, 32, 32, 8, 128, 4096, 14336, 128256, id="built engines"),
        pytest.param({}, 0, 0, 0, 0, 0, 0, 0, id="an empty configuration"),
    ],
)
def test_each_family_says_its_sizes_in_its_own_words(
    config, n_layers, n_heads, n_kv_heads, head_dim, hidden, intermediate, vocab
):
    shape = ModelShape.of(config)
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.head_dim) == (
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
    )
    assert (shape.hidden, shape.intermediate, shape.vocab) == (hidden, intermediate, vocab)


GEMMA_2_9B = {"model_type": "gemma2", "num_hidden_layers": 42, "num_attention_heads": 16, "sliding_window": 4096}
GPT_OSS = {
    "num_hidden_layers": 4, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
GEMMA_3N = {
    "num_hidden_layers": 35, "sliding_window": 512, "num_kv_shared_layers": 15,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
}  # fmt: skip
LLAMA_4 = {
    "model_type": "llama4_text",
    "num_hidden_layers": 48,
    "attention_chunk_size": 8192,
    "no_rope_layers": [1, 1, 1, 0] * 12,
}
JAMBA = {
    "model_type": "jamba",
    "num_hidden_layers": 32,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "sliding_window": None,
}
NEMOTRON_H = {"hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"}
QWEN3_NEXT = {"num_hidden_layers": 48, "full_attention_interval": 4, "num_attention_heads": 16}
QWEN3_NEXT_LISTED = {"num_hidden_layers": 8, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2}
GRANITE_HYBRID = {"num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"]}
RECURRENT_GEMMA = {
    "num_hidden_layers": 26,
    "block_types": ["recurrent", "recurrent", "attention"],
    "attention_window_size": 2048,
}
KIMI_LINEAR = {"num_hidden_layers": 27, "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27]}}
MISTRAL_01 = {"model_type": "mistral", "num_hidden_layers": 32, "sliding_window": 4096}
EXAONE_4 = {"num_hidden_layers": 64, "sliding_window": 4096, "sliding_window_pattern": "LLLG"}


@pytest.mark.parametrize(
    ("config", "n_full", "n_window", "window_tokens"),
    [
        pytest.param(LLAMA_3_8B, 32, 0, 0, id="all see everything"),
        pytest.param(MISTRAL_01, 0, 32, 4096, id="all have a window"),
        pytest.param({**MISTRAL_01, "sliding_window": None}, 32, 0, 0, id="a window that is switched off"),
        pytest.param(QWEN2_7B, 28, 0, 0, id="a window that is not used"),
        pytest.param({**QWEN2_7B, "use_sliding_window": True, "max_window_layers": 20}, 20, 8, 131072, id="last ones"),
        pytest.param(GEMMA_2_9B, 21, 21, 4096, id="every second"),
        pytest.param(GEMMA_3_4B, 5, 29, 1024, id="five of six"),
        pytest.param({"model_type": "cohere2", "num_hidden_layers": 32, "sliding_window": 4096,
                      "sliding_window_pattern": 4}, 8, 24, 4096, id="three of four"),
        pytest.param(EXAONE_4, 16, 48, 4096, id="a pattern in letters"),
        pytest.param({"n_layers": 4, "sliding_window": [None, 1024]}, 2, 2, 1024, id="a pattern of windows"),
        pytest.param(GPT_NEO_1B, 12, 12, 256, id="local and global"),
        pytest.param(GPT_OSS, 2, 2, 128, id="listed"),
        pytest.param({**GPT_OSS, "sliding_window": None}, 4, 0, 0, id="listed, without a window"),
        pytest.param(GEMMA_3N, 4, 16, 512, id="the last ones share a cache"),
        pytest.param(LLAMA_4, 12, 36, 8192, id="chunks"),
        pytest.param(JAMBA, 4, 0, 0, id="one of eight has attention"),
        pytest.param(NEMOTRON_H, 4, 0, 0, id="a pattern with stars"),
        pytest.param(QWEN3_NEXT, 12, 0, 0, id="one of four has attention"),
        pytest.param(QWEN3_NEXT_LISTED, 2, 0, 0, id="linear attention, listed"),
        pytest.param(GRANITE_HYBRID, 1, 0, 0, id="mamba layers, listed"),
        pytest.param(RECURRENT_GEMMA, 0, 8, 2048, id="every third has a window"),
        pytest.param(KIMI_LINEAR, 7, 0, 0, id="numbered from 1"),
        pytest.param({"num_hidden_layers": 64, "attn_layer_indices": [9, 18, 27]}, 3, 0, 0, id="numbered from 0"),
        pytest.param({"num_hidden_layers": 5, "attn_type_list": [0, 0, 0, 1, 0]}, 1, 0, 0, id="listed by numbers"),
        pytest.param({"model_type": "longcat_flash", "num_layers": 28}, 56, 0, 0, id="two attentions in a layer"),
        pytest.param({"model_type": "mamba", "num_hidden_layers": 24, "hidden_size": 768}, 0, 0, 0, id="no attention"),
    ],
)  # fmt: skip
def test_layers_keep_a_whole_sequence_or_a_window_or_nothing(config, n_full, n_window, window_tokens):
    shape = ModelShape.of(config)
    assert (shape.n_full_layers, shape.n_window_layers, shape.window_tokens) == (n_full, n_window, window_tokens)


def test_the_layers_of_a_pattern_are_counted_where_nothing_else_counts_them():
    assert ModelShape.of(NEMOTRON_H).n_layers == len(NEMOTRON_H["hybrid_override_pattern"])


@pytest.mark.parametrize(
    ("config", "n_numbers"),
    [
        pytest.param(LLAMA_2_13B, 10240, id="all heads"),
        pytest.param(LLAMA_3_8B, 2048, id="groups of heads"),
        pytest.param(FALCON_7B, 128, id="one head"),
        pytest.param(DEEPSEEK_V3, 576, id="a latent vector and its position"),
        pytest.param({}, 0, id="unknown"),
    ],
)
def test_a_token_keeps_keys_and_values_in_each_layer(config, n_numbers):
    assert ModelShape.of(config).n_cached_numbers == n_numbers


def test_llama_2_13b_keeps_819200_bytes_of_a_token_in_16_bits():
    shape = ModelShape.of(LLAMA_2_13B)
    assert shape.n_cached_numbers * shape.n_full_layers * 2 == 819_200


@pytest.mark.parametrize("wrong", ["32", -1, True, {"a": 1}, None, [], [None], 1.5, 10**15])
def test_what_is_no_number_counts_as_unknown(wrong):
    keys = ("num_hidden_layers", "num_layers", "hidden_size", "sliding_window", "layer_types", "text_config",
            "attn_config", "num_kv_shared_layers", "full_attention_interval", "attention_types")  # fmt: skip
    shape = ModelShape.of(dict.fromkeys(keys, wrong))
    assert (shape.n_layers, shape.n_full_layers, shape.n_window_layers, shape.window_tokens) == (0, 0, 0, 0)


def test_a_model_in_mistral_form_tells_its_sizes_in_params_json():
    artifacts = ModelArtifacts(format=ArtifactFormat.MISTRAL, documents={"params.json": MISTRAL_PARAMS})
    assert shape_of(artifacts) == ModelShape.of(MISTRAL_PARAMS)
