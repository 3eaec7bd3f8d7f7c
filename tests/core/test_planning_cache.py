# SPDX-License-Identifier: Apache-2.0
"""Bytes of keys and values, against what is published of well-known models."""

import pytest

from lmi.planning import CacheShape
from tests.core import planned_models as models

# the model, type of the cache, bytes a token, how they come about
PUBLISHED = [
    ("Llama-2-7B", models.LLAMA_2_7B, "fp16", 524_288, "2 x 32 heads x 128 x 32 layers x 2"),
    ("Llama-2-13B", models.LLAMA_2_13B, "fp16", 819_200, "the PagedAttention paper's 800 KB for 13B"),
    ("Llama-3-8B", models.LLAMA_3_8B, "bf16", 131_072, "8 key-value heads"),
    ("Llama-3-70B", models.LLAMA_3_70B, "bf16", 327_680, "8 key-value heads, 80 layers"),
    ("Llama-3-70B in fp8", models.LLAMA_3_70B, "fp8", 163_840, "half of it"),
    ("Mistral-7B", models.MISTRAL_7B, "bf16", 131_072, "8 key-value heads"),
    ("Falcon-7B", models.FALCON_7B, "bf16", 8_192, "one head of 64 for all queries"),
    ("DeepSeek-V2", models.DEEPSEEK_V2, "bf16", 69_120, "512 latent numbers and 64 for the position, 60 layers"),
    ("Gemma-2-9B", models.GEMMA_2_9B, "bf16", 344_064, "8 heads of 256, 42 layers"),
    ("Jamba", models.JAMBA, "bf16", 16_384, "4 of 32 layers have attention"),
    ("Qwen3-Next", models.QWEN3_NEXT, "bf16", 24_576, "12 of 48 layers have attention"),
]


@pytest.mark.parametrize(("config", "dtype", "n_bytes"), [row[1:4] for row in PUBLISHED], ids=[r[0] for r in PUBLISHED])
def test_a_token_takes_what_is_published(config, dtype, n_bytes):
    assert CacheShape.of(models.shape(config), dtype).token_bytes == n_bytes


# the model, tokens of the sequence, bytes
SEQUENCES = [
    ("no window", models.LLAMA_3_8B, 10_000, 10_000 * 131_072),
    ("all layers, window not full", models.MISTRAL_7B, 4_096, 4_096 * 131_072),
    ("all layers, window full", models.MISTRAL_7B, 30_000, 4_096 * 131_072),
    ("every second layer", models.GEMMA_2_9B, 8_192, 8_192 * 172_032 + 4_096 * 172_032),
    ("five of six layers", models.GEMMA_3_12B, 100_000, 100_000 * 8 * 8_192 + 1_024 * 40 * 8_192),
]


@pytest.mark.parametrize(("config", "n_tokens", "n_bytes"), [r[1:] for r in SEQUENCES], ids=[r[0] for r in SEQUENCES])
def test_layers_with_a_window_stop_growing_at_it(config, n_tokens, n_bytes):
    assert CacheShape.of(models.shape(config), "bf16").bytes_of(n_tokens) == n_bytes


def test_a_backend_that_keeps_all_tokens_of_a_window_needs_more():
    whole = CacheShape.of(models.shape(models.MISTRAL_7B), "bf16", ends_window=False)
    assert whole.bytes_of(30_000) == 30_000 * 131_072


def test_a_backend_that_makes_keys_of_the_latent_vector_needs_more():
    whole = CacheShape.of(models.shape(models.DEEPSEEK_V2), "bf16", keeps_latent=False)
    assert whole.token_bytes == 60 * 128 * (192 + 128) * 2


# degree, whether layers are split, bytes of one device; Llama-3-8B has 8 key-value heads, DeepSeek one vector for all
SPLITS = [
    (models.LLAMA_3_8B, 1, False, 131_072),
    (models.LLAMA_3_8B, 4, False, 32_768),
    (models.LLAMA_3_8B, 8, False, 16_384),
    (models.LLAMA_3_8B, 16, False, 16_384),
    (models.LLAMA_3_8B, 16, True, 8_192),
    (models.LLAMA_3_8B, 24, True, 8_192),
    (models.LLAMA_3_8B, 40, True, 4_096),
    (models.DEEPSEEK_V2, 8, False, 69_120),
    (models.FALCON_7B, 2, False, 8_192),
    (models.FALCON_7B, 2, True, 4_096),
]


@pytest.mark.parametrize(("config", "degree", "splits_layers", "n_bytes"), SPLITS)
def test_a_key_value_head_is_never_split_and_a_latent_vector_is_on_every_device(config, degree, splits_layers, n_bytes):
    found = CacheShape.of(models.shape(config), "bf16", degree=degree, splits_layers=splits_layers)
    assert found.token_bytes == n_bytes


@pytest.mark.parametrize("config", [row[1] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED])
@pytest.mark.parametrize("n_tokens", [1, 1_000, 4_096, 4_097, 50_000])
def test_the_longest_sequence_fits_and_one_token_more_does_not(config, n_tokens):
    cache = CacheShape.of(models.shape(config), "bf16")
    n_bytes = cache.bytes_of(n_tokens)
    most = cache.most_tokens(n_bytes)
    if most is None:  # all layers have a window, and it is full
        assert cache.bytes_of(n_tokens + 1) == n_bytes
    else:
        assert cache.bytes_of(most) <= n_bytes < cache.bytes_of(most + 1)


def test_a_cache_that_never_grows_holds_any_sequence():
    assert CacheShape(full_bytes=0).most_tokens(0) is None
