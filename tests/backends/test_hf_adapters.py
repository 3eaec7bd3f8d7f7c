# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters on the backend hf: what transformers computes with PEFT, over HTTP, in one batch, and after a death."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file as load_torch_file, save_file as save_torch_file

from lmi.api import Accelerator, Decode, Prefill, RequestError, Severity, StepBatch, Target
from lmi.artifacts import detect
from lmi.testing import write_tiny, write_tiny_adapter
from lmi_hf import lmi_validate_artifacts
from lmi_hf.config import HFConfig
from lmi_hf.stepping import StepperOptions, build_stepper
from tests.backends.adapted_servers import AdaptedServer, expected, folder, of, together, write_strange_adapter
from tests.servers import ServerProcess, serve
from tests.wire.adapter_servers import asked, refused

__all__ = ["expected", "folder"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning"),
]

LAYERS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["k_proj", "down_proj"],
    "mixtral": ["q_proj", "o_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bloom": ["query_key_value", "dense"],
    "gptj": ["q_proj", "v_proj", "fc_in"],
}
"""Architectures by the three ways they are stepped, and layers that an adapter of the test changes."""


# ----------------------------------------------------------------------------------------------------- what is computed


def write_adapter(model: Any, folder: Path, layers: list[str], seed: int, **settings: Any) -> Any:
    """An adapter with random matrices, as PEFT writes it; returns the model with it, as PEFT runs it."""
    torch.manual_seed(seed)
    is_conv = type(model).__name__.startswith("GPT2")
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=layers, init_lora_weights=False, task_type="CAUSAL_LM",
        fan_in_fan_out=is_conv, **settings,
    )  # fmt: skip
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return found


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def adapter_stepper(model: Any, **options: Any) -> Any:
    sizes = {"max_slots": 5, "max_context_tokens": 64, "cache_bytes": 1 << 24, "takes_adapters": True, **options}
    return build_stepper(model, StepperOptions(**sizes))


@pytest.mark.parametrize("architecture", LAYERS)
def test_rows_of_several_adapters_and_of_none_are_what_peft_computes_for_each(
    architecture: str, tmp_path: Path
) -> None:
    folder = write_tiny(architecture, tmp_path / "model")
    model, layers = loaded(folder), LAYERS[architecture]
    models = {
        "": loaded(folder),
        "a": write_adapter(model, tmp_path / "a", layers, 1),
        "b": write_adapter(model, tmp_path / "b", layers[:1], 2, use_rslora=True, rank_pattern={layers[0]: 8}),
    }
    stepper = adapter_stepper(model)
    for name in ("a", "b"):
        stepper.load_adapter(name, str(tmp_path / name))
    generator = torch.Generator().manual_seed(3)
    sequences = [torch.randint(3, 250, (n,), generator=generator).tolist() for n in (9, 5, 12, 7, 6)]
    names = ["a", "", "b", "a", ""]
    wanted = [logits_of(models[name], ids) for name, ids in zip(names, sequences, strict=True)]
    assert min(float((wanted[0] - logits_of(models[name], sequences[0])).norm()) for name in ("", "b")) > 0.1

    cuts = [4, 3, 12, 6, 1]  # some are read in two pieces, some decode while others are read
    first = [
        Prefill(slot=slot, ids=ids[:cut], start=0, n_logits=cut, adapter=name)
        for slot, (ids, cut, name) in enumerate(zip(sequences, cuts, names, strict=True))
    ]
    found = [[part] for part in stepper.step(StepBatch(prefills=first)).logits.split(cuts)]
    for step in range(5):
        prefills, decodes = [], []
        for slot, (ids, cut, name) in enumerate(zip(sequences, cuts, names, strict=True)):
            start = cut if step == 0 else cut + step
            if slot == 0:  # its rest at once
                if step == 0:
                    prefills = [Prefill(slot=0, ids=ids[cut:], start=cut, n_logits=len(ids) - cut, adapter=name)]
            elif cut + step < len(ids):
                decodes.append(Decode(slot=slot, ids=[ids[cut + step]], start=start, adapter=name))
        if not prefills and not decodes:
            break
        batch = StepBatch(prefills=prefills, decodes=decodes)
        parts = stepper.step(batch).logits.split([each.n_logits for each in (*prefills, *decodes)])
        for entry, part in zip((*prefills, *decodes), parts, strict=True):
            found[entry.slot].append(part)
    for parts, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.cat(parts), right[: sum(map(len, parts))], rtol=1e-3, atol=1e-4)


def test_an_adapter_that_was_unloaded_may_come_again_with_other_weights(tmp_path: Path) -> None:
    model = loaded(write_tiny("llama", tmp_path / "model"))
    stepper = adapter_stepper(model)
    plain = copy.deepcopy(loaded(tmp_path / "model"))
    ids = [5, 6, 7, 8]
    for seed in (1, 2):
        adapted = write_adapter(plain, tmp_path / f"{seed}", LAYERS["llama"], seed)
        stepper.load_adapter("a", str(tmp_path / f"{seed}"))
        out = stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids, start=0, n_logits=4, adapter="a")]))
        torch.testing.assert_close(out.logits, logits_of(adapted, ids), rtol=1e-3, atol=1e-4)
        stepper.release(0)
        stepper.unload_adapter("a")
    out = stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids, start=0, n_logits=4)]))
    torch.testing.assert_close(out.logits, logits_of(plain, ids), rtol=1e-3, atol=1e-4)


def test_bf16_weights_packed_for_the_processor_take_adapters_too(tmp_path: Path) -> None:
    folder = write_tiny("llama-wide", tmp_path / "model")
    adapted = write_adapter(loaded(folder), tmp_path / "a", LAYERS["llama"], 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    stepper = adapter_stepper(model)
    stepper.load_adapter("a", str(tmp_path / "a"))
    ids = list(range(5, 25))
    out = stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids, start=0, n_logits=20, adapter="a")])).logits
    right = logits_of(adapted, ids)
    assert float((out.float() - right).norm() / right.norm()) < 0.05
    assert float((out.float() - logits_of(loaded(folder), ids)).norm() / right.norm()) > 0.3


def changed(weights: Path, part: str, change: Callable[[torch.Tensor], Any]) -> None:
    """Change the matrices of an adapter whose name has a part, in place."""
    tensors = load_torch_file(weights)
    for name, values in tensors.items():
        if part in name:
            change(values)
    save_torch_file(tensors, weights)


@pytest.mark.parametrize(("part", "value"), [("lora_A", float("inf")), ("lora_B", float("nan"))])
def test_an_adapter_with_a_number_that_is_not_finite_is_not_loaded(part: str, value: float, tmp_path: Path) -> None:
    model = loaded(write_tiny("llama", tmp_path / "model"))
    write_adapter(model, tmp_path / "a", ["k_proj"], 1)
    changed(tmp_path / "a" / "adapter_model.safetensors", part, lambda values: values[1, 1:].fill_(value))
    stepper = adapter_stepper(model)
    with pytest.raises(
        RequestError, match=r"'a' from .*: of model\.layers\.0.*k_proj, a number is not finite in float32"
    ):
        stepper.load_adapter("a", str(tmp_path / "a"))
    ids = [5, 6, 7, 8]
    out = stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids, start=0, n_logits=4, adapter="a")]))
    torch.testing.assert_close(out.logits, logits_of(model, ids), rtol=1e-3, atol=1e-4)  # nothing of it was left


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_what_an_adapter_makes_infinite_reaches_no_other_request(architecture: str, tmp_path: Path) -> None:
    folder = write_tiny(architecture, tmp_path / "model")
    model, as_it_is = loaded(folder), loaded(folder)
    write_adapter(model, tmp_path / "a", LAYERS[architecture], 1)
    changed(tmp_path / "a" / "adapter_model.safetensors", "lora_A", lambda values: values.fill_(3e38))
    stepper = adapter_stepper(model)
    stepper.load_adapter("a", str(tmp_path / "a"))
    ids = list(range(5, 45))
    both = [Prefill(slot=slot, ids=ids, start=0, n_logits=40, adapter=name) for slot, name in enumerate(["a", ""])]
    ruined, plain = stepper.step(StepBatch(prefills=both)).logits.split(40)
    assert not ruined.isfinite().all()
    torch.testing.assert_close(plain, logits_of(as_it_is, ids), rtol=1e-3, atol=1e-4)
    stepper.release(0)  # now the slot is another request's, beside a longer one, and a mask hides what lies behind it
    stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids[:4], start=0, n_logits=1)]))
    decodes = [Decode(slot=0, ids=[ids[4]], start=4), Decode(slot=1, ids=[45], start=40)]
    out = stepper.step(StepBatch(decodes=decodes)).logits
    right = torch.stack([logits_of(as_it_is, ids[:5])[-1], logits_of(as_it_is, [*ids, 45])[-1]])
    torch.testing.assert_close(out, right, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of peft, which writes it
@pytest.mark.parametrize("setting", ["use_dora", "lora_bias"])
def test_what_is_more_than_plain_lora_is_not_loaded(setting: str, tmp_path: Path) -> None:
    model = loaded(write_tiny("llama", tmp_path / "model"))
    write_adapter(model, tmp_path / "a", ["q_proj"], 1, **{setting: True})
    with pytest.raises(RequestError, match="more than plain LoRA") as caught:
        adapter_stepper(model).load_adapter("a", str(tmp_path / "a"))
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of peft, which writes it
def test_a_layer_that_steps_cannot_reach_is_named(tmp_path: Path) -> None:
    model = loaded(write_tiny("llama", tmp_path / "model"))
    write_adapter(model, tmp_path / "a", ["lm_head"], 1)
    with pytest.raises(RequestError, match="it changes lm_head"):
        adapter_stepper(model).load_adapter("a", str(tmp_path / "a"))


# ------------------------------------------------------------------------------------------------ before it is loaded


def problems(folder: Path, **options: Any) -> dict[str, str]:
    found = lmi_validate_artifacts(
        detect(folder), HFConfig.model_validate(options), Target(accelerator=Accelerator.CPU)
    )
    return {each.code: each.message for each in found if each.severity is Severity.ERROR}


def test_an_adapter_of_too_high_a_rank_or_of_another_kind_is_refused_by_the_check(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    write_tiny_adapter(folder / "adapters" / "fr", folder, rank=8)
    assert problems(folder, enable_lora=True) == {}
    assert "rank 8" in problems(folder, enable_lora=True, max_lora_rank=4)["adapter.rank"]
    config = folder / "adapters" / "fr" / "adapter_config.json"
    for change, said in (({"use_dora": True}, "DoRA"), ({"target_modules": ["lm_head"]}, "a part for lm_head")):
        content = json.loads(config.read_text())
        config.write_text(json.dumps(content | change))
        assert said in problems(folder, enable_lora=True)["adapter.not-supported"]
        config.write_text(json.dumps(content))


def test_without_the_switch_limits_of_adapters_change_nothing_and_a_warning_says_so() -> None:
    found = list(HFConfig(max_loras=2, max_lora_rank=8).conflicts())
    assert [each.code for each in found] == ["config.no-effect"] * 2
    assert not list(HFConfig(enable_lora=True, max_loras=2, max_lora_rank=8).conflicts())


# ---------------------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    # Fewer in a step than there are: requests for the third wait.
    options = ("rolling_batch=hf", "dtype=fp32", "enable_lora=true", "max_loras=2", "max_lora_rank=8")
    with serve(str(folder), *(part for option in options for part in ("-o", option))) as running:
        yield running


def test_an_adapter_that_cannot_be_loaded_is_refused_and_the_engine_lives(
    server: ServerProcess, folder: Path, tmp_path: Path, expected: dict[str, list[list[int]]]
) -> None:
    [pid] = server.worker_pids()
    body = {"name": "bad", "src": str(write_strange_adapter(tmp_path / "strange", folder))}
    message = refused(asked(server, "POST", "/adapters", json=body), 400, "adapter.not-loadable")
    assert "cannot load adapter 'bad'" in message
    assert "no weights for model.layers.0.self_attn.q_proj" in message
    assert together(server, "fr") == of(expected, "fr")
    assert server.worker_pids() == [pid]


class TestOverHttp(AdaptedServer):
    """Fewer adapters in a step than there are, many requests, and a death."""
