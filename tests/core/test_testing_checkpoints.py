# SPDX-License-Identifier: Apache-2.0
"""The tiny checkpoints of the contract kit: transformers must load them whole, and their ids must be beyond doubt."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from lmi.api import ArtifactError, ConfigError
from lmi.artifacts import checks, formats
from lmi.testing.checkpoints import ARCHITECTURES, N_COMPARED_TOKENS, PROMPTS, write_tiny, write_tiny_adapter
from lmi.testing.shapes import BOS_ID, CONTEXT_TOKENS, EOS_ID, PAD_ID, SHAPES, VOCAB_SIZE
from tests.limits import limit_s

MIN_GAP = 1e-3
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Write a checkpoint once and give its folder again at each later call."""
    written: dict[tuple[object, ...], Path] = {}

    def folder(architecture: str, **changes: Any) -> Path:
        key = (architecture, *sorted(changes.items()))
        if key not in written:
            written[key] = write_tiny(architecture, tmp_path_factory.mktemp(architecture), **changes)
        return written[key]

    return folder


def load(folder: Path, dtype: str = "auto") -> tuple[Any, dict[str, Any]]:
    """The model as transformers loads it, and what it says about keys."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about their own future
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True
        )
    return model.eval(), info


def greedy(model: Any, prompt: tuple[int, ...]) -> tuple[list[int], float]:
    """Ids after the prompt, end-of-sequence ignored, and the least gap between the two best logits."""
    import torch

    ids, gap = list(prompt), float("inf")
    for _ in range(N_COMPARED_TOKENS):
        with torch.inference_mode():
            best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :], gap


def test_prompts_are_eight_of_3_to_40_byte_ids() -> None:
    lengths = [len(prompt) for prompt in PROMPTS]
    assert (len(PROMPTS), min(lengths), max(lengths)) == (8, 3, 40)
    assert all(0 <= each < BOS_ID for prompt in PROMPTS for each in prompt)
    assert len(set(PROMPTS)) == 8


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_finds_every_tensor_it_wants_and_no_other(architecture: str, tiny: Folders) -> None:
    model, info = load(tiny(architecture))
    assert {name: keys for name, keys in info.items() if keys} == {}
    assert model.config.model_type == (SHAPES[architecture].model_type or architecture)
    assert str(model.dtype) == "torch.float32"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_ids_of_the_default_seed_are_beyond_doubt_and_varied(architecture: str, tiny: Folders) -> None:
    model, _ = load(tiny(architecture))
    answers = [greedy(model, prompt) for prompt in PROMPTS]
    assert min(gap for _, gap in answers) > MIN_GAP
    assert [ids for ids, _ in answers if len(set(ids)) < 3] == []
    assert not {BOS_ID, EOS_ID, PAD_ID} & {each for ids, _ in answers for each in ids}
    assert len({tuple(ids) for ids, _ in answers}) == len(PROMPTS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_bias_is_random_so_that_a_lost_one_shows(architecture: str, tiny: Folders) -> None:
    weights = load_file(tiny(architecture) / "model.safetensors")
    biases = {name: values for name, values in weights.items() if name.endswith(".bias")}
    assert [name for name, values in biases.items() if not 0.01 < values.std() < 0.2] == []
    vectors = {name for name, values in weights.items() if values.ndim == 1} - biases.keys()
    assert [name for name in vectors if not (weights[name] == 1).all()] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_folder_is_whole_and_lmi_finds_nothing_wrong_with_it(architecture: str, tiny: Folders) -> None:
    folder = tiny(architecture)
    artifacts = formats.detect(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert checks.check(artifacts) == []
    model_type = SHAPES[architecture].model_type or architecture
    assert (artifacts.model_type, artifacts.max_context_tokens) == (model_type, CONTEXT_TOKENS)
    assert artifacts.eos_token_ids == (EOS_ID,)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again = write_tiny("phi", tmp_path / "first"), write_tiny("phi", tmp_path / "again")
    other = write_tiny("phi", tmp_path / "other", seed=1234)
    assert {name for name in FILES if (first / name).read_bytes() != (again / name).read_bytes()} == set()
    assert {name for name in FILES if (first / name).read_bytes() != (other / name).read_bytes()} == {
        "model.safetensors"
    }


def test_the_drawn_numbers_are_the_same_on_every_machine(tiny: Folders) -> None:
    weights = load_file(tiny("llama") / "model.safetensors")
    assert weights["model.embed_tokens.weight"][0, :3] == pytest.approx([0.1411242, 0.0320126, 0.0782990], abs=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_narrow_weights_load_as_such_and_are_the_rounded_float32_ones(
    architecture: str, dtype: str, tiny: Folders
) -> None:
    narrow, info = load(tiny(architecture, dtype=dtype))
    wide, _ = load(tiny(architecture))
    assert {name: keys for name, keys in info.items() if keys} == {}
    assert str(narrow.dtype) == f"torch.{dtype}"
    expected = wide.to(narrow.dtype).state_dict()
    assert [name for name, values in narrow.state_dict().items() if not values.equal(expected[name])] == []


def test_the_end_of_sequence_id_is_in_both_configurations(tmp_path: Path) -> None:
    folder = write_tiny("gptj", tmp_path, eos_token_id=17)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == 17
    assert formats.detect(folder).eos_token_ids == (17,)


def test_the_tokenizer_writes_and_reads_any_text_in_300_ids(tiny: Folders) -> None:
    tokenizer = Tokenizer.from_file(str(tiny("llama") / "tokenizer.json"))
    text = "The ringing of bells, in 3 towns: ça va? 東京 🙂\n\t</end>"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())
    assert max(ids) < VOCAB_SIZE == tokenizer.get_vocab_size()
    assert [tokenizer.token_to_id(piece) for piece in ("<s>", "</s>", "<pad>")] == [BOS_ID, EOS_ID, PAD_ID]


@pytest.mark.parametrize("architecture", ["llama", "llama-wide"])
def test_an_adapter_loads_and_changes_the_ids_of_every_prompt(architecture: str, tiny: Folders, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tiny(architecture)
    folder = write_tiny_adapter(tmp_path / "adapter", base)
    model, _ = load(base)
    before = [greedy(model, prompt)[0] for prompt in PROMPTS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft only warns of keys it cannot place
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)  # peft asks
        adapted = peft.PeftModel.from_pretrained(model, folder)
    after = [greedy(adapted, prompt)[0] for prompt in PROMPTS]
    assert [prompt for prompt, old, new in zip(PROMPTS, before, after, strict=True) if old == new] == []
    stored = load_file(folder / "adapter_model.safetensors")
    assert set(stored) == set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base.resolve())


def test_an_adapter_has_the_rank_and_the_seed_that_were_asked_for(tiny: Folders, tmp_path: Path) -> None:
    base = tiny("llama")
    folders = [write_tiny_adapter(tmp_path / str(seed), base, rank=8, seed=seed) for seed in (0, 1)]
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert {values.shape[0] for name, values in first.items() if "lora_A" in name} == {8}
    assert [name for name in first if np.array_equal(first[name], second[name])] == []


def test_all_wrong_arguments_are_refused_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    wrong: Any = "bfloat61"
    with pytest.raises(ConfigError) as refusal:
        write_tiny("mixtrall", tmp_path / "model", dtype=wrong, seed=-1, eos_token_id=300)
    assert str(refusal.value).splitlines() == [
        "config.invalid: 4 problems in the arguments; nothing was written.",
        "  [config.invalid-value] architecture 'mixtrall' is not known. Did you mean 'mixtral'?",
        "  [config.invalid-value] dtype 'bfloat61' is not known. Did you mean 'bfloat16'?",
        "  [config.invalid-value] seed -1 is not between 0 and 4294967295. Give a number from 0 to 4294967295.",
        "  [config.invalid-value] eos_token_id 300 is not between 0 and 299. Give a number from 0 to 299.",
    ]
    assert not (tmp_path / "model").exists()


def test_an_adapter_for_anything_but_a_llama_is_refused_with_the_reason(tiny: Folders, tmp_path: Path) -> None:
    gpt2 = tiny("gpt2")
    with pytest.raises(ArtifactError, match="is no Llama: it is a gpt2"):
        write_tiny_adapter(tmp_path / "adapter", gpt2)
    with pytest.raises(ArtifactError, match=r"config\.json cannot be read: No such file or directory"):
        write_tiny_adapter(tmp_path / "adapter", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="rank 0 is not between 1 and 64"):
        write_tiny_adapter(tmp_path / "adapter", gpt2, rank=0)
    assert not (tmp_path / "adapter").exists()


def test_writing_checkpoints_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from lmi.testing.checkpoints import write_tiny, write_tiny_adapter\n"
        "write_tiny_adapter(sys.argv[2], write_tiny('llama', sys.argv[1], dtype='bfloat16'))\n"
        "print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "adapter")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s(60))
    assert (result.stdout, result.returncode) == ("[]\n", 0), result.stderr
