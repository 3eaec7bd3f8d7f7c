# SPDX-License-Identifier: Apache-2.0
"""lmi_hf.stepping: the tokens that model.generate gives, whatever runs beside and however prompts are cut."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lmi.api import Decode, OutOfMemoryError, Prefill, StepBatch, Stepper
from lmi_hf.stepping import PackedStepper, SerialStepper, StepperOptions, build_stepper
from tests.tiny import write_tiny

pytestmark = [
    # transformers' module of gpt_bigcode scripts a function when it is imported
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]
torch.set_num_threads(1)

N_NEW = 16
PACKED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "gpt_neox", "gpt2", "gpt_bigcode", "opt")
SERIAL = ("gemma2", "gptj", "bloom", "falcon", "mamba")
OPTIONS = StepperOptions(max_slots=8, max_context_tokens=128, cache_bytes=1 << 26)

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Write a tiny model once and load it anew at each call: a stepper changes the model it is given."""
    from transformers import AutoModelForCausalLM

    folders: dict[str, Path] = {}

    def load_model(arch: str, dtype: str = "float32", **config: Any) -> Any:
        key = f"{arch}-{dtype}-{sorted(config.items())}"
        if key not in folders:
            folders[key] = write_tiny(arch, tmp_path_factory.mktemp(arch), dtype=dtype, **config)
        return AutoModelForCausalLM.from_pretrained(folders[key], dtype=getattr(torch, dtype)).eval()

    return load_model


def prompts(*lengths: int) -> list[list[int]]:
    chosen = random.Random(1)
    return [[chosen.randrange(256) for _ in range(length)] for length in lengths]


def generated(model: Any, prompt: Sequence[int], n_new: int = N_NEW) -> list[int]:
    """What stock generate gives for a prompt alone."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n_new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def logits_of(stepper: Stepper, prefills: Sequence[Prefill] = (), decodes: Sequence[Decode] = ()) -> torch.Tensor:
    logits = stepper.step(StepBatch(prefills=list(prefills), decodes=list(decodes))).logits
    assert logits is not None
    return logits


def stepped(stepper: Stepper, prompt: Sequence[int], n_new: int = N_NEW, slot: int = 0) -> list[int]:
    """Greedy tokens of one prompt in one slot, which is left occupied."""
    logits = logits_of(stepper, [Prefill(slot=slot, ids=list(prompt), start=0, n_logits=1)])
    ids = [int(logits.argmax())]
    while len(ids) < n_new:
        decode = Decode(slot=slot, ids=[ids[-1]], start=len(prompt) + len(ids) - 1)
        ids.append(int(logits_of(stepper, decodes=[decode]).argmax()))
    return ids


def stepped_together(stepper: Stepper, all_prompts: list[list[int]], chunk: int, seed: int) -> list[list[int]]:
    """Greedy tokens of prompts that arrive one step after another, in random slots, read in chunks beside decodes."""
    chosen = random.Random(seed)
    slots = chosen.sample(range(stepper.limits.max_slots), len(all_prompts))
    outs: list[list[int]] = [[] for _ in all_prompts]
    n_read = [0] * len(all_prompts)
    n_steps = 0
    while any(len(out) < N_NEW for out in outs):
        prefills, decodes = [], []
        for number, prompt in enumerate(all_prompts):
            if len(outs[number]) == N_NEW or number > n_steps:
                continue
            start = n_read[number]
            if start < len(prompt):
                ids = prompt[start : start + chunk]
                n_logits = int(start + len(ids) == len(prompt))
                prefills.append((number, Prefill(slot=slots[number], ids=ids, start=start, n_logits=n_logits)))
                n_read[number] += len(ids)
            else:
                start = len(prompt) + len(outs[number]) - 1
                decodes.append((number, Decode(slot=slots[number], ids=[outs[number][-1]], start=start)))
        chosen.shuffle(decodes)
        best = iter(logits_of(stepper, [p for _, p in prefills], [d for _, d in decodes]).argmax(-1).tolist())
        for number, entry in [*prefills, *decodes]:
            if entry.n_logits:
                outs[number].append(next(best))
        assert next(best, None) is None
        n_steps += 1
    for slot in slots:
        stepper.release(slot)
    return outs


@pytest.mark.parametrize("arch", [*PACKED, *SERIAL])
def test_mixed_lengths_and_chunks_give_the_tokens_of_generate(arch: str, load: Load) -> None:
    wanted_model = load(arch)
    texts = prompts(5, 40, 1, 23, 60)
    wanted = [generated(wanted_model, text) for text in texts]
    stepper = build_stepper(load(arch), OPTIONS)
    assert isinstance(stepper, PackedStepper if arch in PACKED else SerialStepper)
    assert stepped_together(stepper, texts, chunk=7, seed=0) == wanted
    # the same slots again, now with the leftovers of other sequences in them, and prompts in one piece
    assert stepped_together(stepper, texts, chunk=100, seed=1) == wanted


def test_sliding_window_of_the_packed_model_forward_hides_what_the_model_hides(load: Load) -> None:
    model = load("mixtral", sliding_window=16)
    texts = prompts(30, 3, 50)
    wanted = [generated(model, text) for text in texts]
    without_window = generated(load("mixtral"), texts[2])
    stepper = build_stepper(load("mixtral", sliding_window=16), OPTIONS)
    assert isinstance(stepper, PackedStepper)
    assert stepped_together(stepper, texts, chunk=20, seed=2) == wanted
    assert wanted[2] != without_window


def test_truncated_slot_goes_on_from_what_is_left(load: Load) -> None:
    for arch in ("llama", "mamba"):
        stepper = build_stepper(load(arch), OPTIONS)
        (text,) = prompts(20)
        first = stepped(stepper, text)
        stepper.truncate(0, 12)
        rest = Prefill(slot=0, ids=text[12:], start=12, n_logits=1)
        assert int(logits_of(stepper, [rest]).argmax()) == first[0]
        decode = Decode(slot=0, ids=[first[0]], start=20)
        assert int(logits_of(stepper, decodes=[decode]).argmax()) == first[1]


def test_logits_of_the_last_positions_come_in_the_order_of_the_batch(load: Load) -> None:
    model = load("llama")
    texts = prompts(9, 6, 4)
    with torch.inference_mode():
        wanted = [model(torch.tensor([text])).logits[0] for text in texts]
    stepper = build_stepper(load("llama"), OPTIONS)
    logits_of(stepper, [Prefill(slot=5, ids=texts[1][:4], start=0, n_logits=0)])
    logits_of(stepper, [Prefill(slot=2, ids=texts[2][:3], start=0, n_logits=0)])
    several = Decode(slot=5, ids=texts[1][4:], start=4, n_logits=2)
    single = Decode(slot=2, ids=texts[2][3:], start=3)
    found = logits_of(stepper, [Prefill(slot=0, ids=texts[0], start=0, n_logits=9)], [several, single])
    expected = torch.cat([wanted[0], wanted[1][4:], wanted[2][3:]])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_step_without_wanted_logits_returns_none_of_them(load: Load) -> None:
    for arch in ("llama", "gpt2", "bloom"):
        stepper = build_stepper(load(arch), OPTIONS)
        found = logits_of(stepper, [Prefill(slot=0, ids=[1, 2, 3], start=0, n_logits=0)])
        assert found.shape == (0, stepper.limits.vocab_size)


def test_packed_bf16_weights_give_logits_near_the_models_own(load: Load) -> None:
    model = load("llama", "bfloat16")
    (text,) = prompts(40)
    with torch.inference_mode():
        wanted = model(torch.tensor([text])).logits[0].float()
    stepper = build_stepper(load("llama", "bfloat16"), OPTIONS)
    found = logits_of(stepper, [Prefill(slot=3, ids=text, start=0, n_logits=40)]).float()
    assert found.shape == wanted.shape
    assert ((found - wanted).norm() / wanted.norm()).item() < 0.05


def test_a_batch_that_does_not_continue_its_slot_is_refused(load: Load) -> None:
    for arch in ("llama", "bloom"):
        stepper = build_stepper(load(arch), OPTIONS)
        stepped(stepper, [1, 2, 3], n_new=2)
        with pytest.raises(ValueError, match="slot 0 holds 4 tokens, the batch says 7"):
            logits_of(stepper, decodes=[Decode(slot=0, ids=[5], start=7)])


def test_an_architecture_that_cannot_share_a_cache_is_named_once(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lmi_hf"):
        build_stepper(load("bloom"), OPTIONS)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith("BloomForCausalLM runs one sequence at a time, right but slower")


def test_a_length_dependent_rotation_is_stepped_with_the_models_own_cache(load: Load) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    changed = {"max_position_embeddings": 32, "rope_parameters": scaling}
    texts = prompts(20, 40)
    wanted = [generated(load("llama", **changed), text) for text in texts]
    stepper = build_stepper(load("llama", **changed), OPTIONS)
    assert isinstance(stepper, SerialStepper)
    assert stepped_together(stepper, texts, chunk=100, seed=4) == wanted


def test_a_model_whose_code_the_loop_misreads_is_stepped_by_its_own_forward(load: Load) -> None:
    def scaled() -> Any:
        """A Llama in name and parts whose attention is scaled by something the loop does not look at."""
        model = load("llama")
        for layer in model.model.layers:
            layer.mlp.register_forward_hook(lambda module, args, out: out * 0.5)
        return model

    (text,) = prompts(12)
    wanted = generated(scaled(), text)
    assert wanted != generated(load("llama"), text)
    stepper = build_stepper(scaled(), OPTIONS)
    assert isinstance(stepper, PackedStepper)
    assert stepped(stepper, text) == wanted


def test_limits_follow_options_and_memory(load: Load) -> None:
    token_bytes = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head size, float32
    options = StepperOptions(max_slots=4, max_context_tokens=100, cache_bytes=150 * token_bytes)
    limits = build_stepper(load("llama"), options).limits
    assert (limits.max_slots, limits.max_context_tokens, limits.kv_capacity_tokens) == (4, 100, 150)
    assert limits.vocab_size == 300
    small = StepperOptions(max_slots=4, max_context_tokens=100, cache_bytes=60 * token_bytes)
    limits = build_stepper(load("llama"), small).limits
    assert (limits.max_context_tokens, limits.kv_capacity_tokens) == (60, 60)


def test_a_cache_too_small_for_any_request_is_an_out_of_memory_error_with_both_numbers(load: Load) -> None:
    with pytest.raises(OutOfMemoryError, match="holds 7 tokens of cache, at least 16 are needed"):
        build_stepper(load("llama"), StepperOptions(max_slots=2, max_context_tokens=64, cache_bytes=7 * 512))


def test_closing_twice_is_fine(load: Load) -> None:
    for arch in ("llama", "bloom"):
        stepper = build_stepper(load(arch), OPTIONS)
        stepper.close()
        stepper.close()
