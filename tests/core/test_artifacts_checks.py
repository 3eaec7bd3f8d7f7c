# SPDX-License-Identifier: Apache-2.0
"""Each thing that can be wrong with a model's files is told with a code, its value, its place and what to do."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmi.api.errors import Severity
from lmi.artifacts import check, detect
from tests.core.layouts import Elsewhere, gguf, layout, pickled, write
from tests.core.model_folders import CONFIG, write_json, write_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WHOLE = "model.safetensors"


def problems(folder):
    """What is wrong, the same here and elsewhere."""
    files = Elsewhere(folder)
    there = check(detect(files), files)
    here = check(folder)
    place = str(folder.resolve())
    assert [(each.code, each.message, each.path.replace(place, files.place)) for each in here] == [
        (each.code, each.message, each.path) for each in there
    ]
    assert all(each.hint for each in here if each.severity is Severity.ERROR)
    assert all(each.path.startswith(place) for each in here)
    return here


def told(folder):
    return [(each.code, each.message) for each in problems(folder)]


def test_three_mistakes_are_told_together(tmp_path):
    folder = write_model(tmp_path / "m", n_shards=2)
    (folder / "tokenizer_config.json").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    write(folder, {"config.json": "{"})
    assert [code for code, _ in told(folder)] == ["config.unreadable", "weights.shard-missing", "tokenizer.missing"]


NO = "no model weights, neither .safetensors nor .bin; "
FOREIGN = [
    ({"a.Q4_K_M.gguf": b"GGUF"}, "a.Q4_K_M.gguf cannot be served: GGUF"),
    ({"model.onnx": b"", "model.onnx_data": b""}, "model.onnx, model.onnx_data cannot be served: ONNX"),
    ({"tf_model.h5": b""}, "tf_model.h5 cannot be served: TensorFlow"),
    ({"model.ckpt.index": b"", "saved_model.pb": b""}, "model.ckpt.index, saved_model.pb cannot be served: TensorFlow"),
    ({"flax_model.msgpack": b""}, "flax_model.msgpack cannot be served: Flax"),
    ({"llm.nemo": b""}, "llm.nemo cannot be served: NeMo"),
    ({"weights.npz": b""}, "weights.npz cannot be served: MLX"),
    (
        {"latest": b"", "global_step9/mp_rank_00_model_states.pt": b""},
        "global_step9/mp_rank_00_model_states.pt cannot be served: a sharded training checkpoint",
    ),
    ({"__0_0.distcp": b""}, "__0_0.distcp cannot be served: a sharded training checkpoint"),
    (
        {f"consolidated.0{i}.pth": b"" for i in range(4)},
        "consolidated.00.pth, consolidated.01.pth, consolidated.02.pth and 1 more cannot be served: "
        "PyTorch weights under a name of their own",
    ),
]


@pytest.mark.parametrize(("files", "text"), FOREIGN)
@pytest.mark.parametrize("is_bare", [True, False])
def test_weights_of_another_kind_are_named_as_what_they_are(files, text, is_bare, tmp_path):
    folder = tmp_path / "m"
    if not is_bare:
        write_model(folder)
        (folder / WHOLE).unlink()
    assert told(write(folder, files)) == [("weights.unsupported-kind", NO + text)]


def test_two_other_kinds_are_two_problems_and_beside_safetensors_they_are_none(tmp_path):
    folder = write(write_model(tmp_path / "m"), {"a.gguf": b"", "model.onnx": b""})
    assert told(folder) == []
    (folder / WHOLE).unlink()
    assert [code for code, _ in told(folder)] == ["weights.unsupported-kind"] * 2


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"general__base_model__0__repo_url": "https://huggingface.co/org/model-7B"}, "org/model-7B"),
        ({"general__source__huggingface__repository": "org/other"}, "org/other"),
        ({"general__name": "Llama"}, "Take the repository it was made from"),
        ({"general__base_model__0__repo_url": "javascript:alert(1)"}, "Take the repository it was made from"),
    ],
)
def test_the_original_of_a_gguf_file_is_named_where_it_says_so(keys, hint, tmp_path):
    (problem,) = problems(write(tmp_path / "m", {"a.gguf": gguf(**keys)}))
    assert hint in problem.hint


def test_a_pipeline_of_diffusers_is_refused_as_a_whole(tmp_path):
    folder = write(tmp_path / "m", {"model_index.json": {"_class_name": "FluxPipeline"}, "unet/config.json": {}})
    assert told(folder) == [
        (
            "model.not-a-language-model",
            "model_index.json says that this is a pipeline of diffusers (FluxPipeline), not a language model",
        )
    ]


CONFIGS = [
    (b"\xff{}", "config.unreadable", "config.json is not a JSON object: it is not UTF-8: byte 0xff at 0"),
    (b"[]", "config.unreadable", "config.json is not a JSON object"),
    (
        b"{'a': 1}", "config.unreadable",
        "config.json is not a JSON object: it is no JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
    ),
    (b'{"a":' * 2000 + b"1" + b"}" * 2000, "config.unreadable", "config.json is not a JSON object: it is nested"),
    (b'{"a": "' + b"x" * (1 << 20) + b'"}', "config.unreadable", "config.json has 1048585 bytes; up to 1048576 are"),
    (POINTER, "config.lfs-pointer", "config.json is a git-lfs pointer, not the file"),
    (b"{}", "config.incomplete", "config.json has neither model_type nor architectures"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "code", "message"), CONFIGS)
def test_a_config_that_cannot_be_used_says_why(content, code, message, tmp_path):
    ((found, text),) = told(write(write_model(tmp_path / "m"), {"config.json": content}))
    assert (found, text[: len(message)]) == (code, message)


def test_a_broken_generation_config_is_told(tmp_path):
    folder = write(write_model(tmp_path / "m"), {"generation_config.json": "{"})
    assert [code for code, _ in told(folder)] == ["config.unreadable"]


def test_the_config_of_a_repository_is_looked_for_where_the_repository_is(tmp_path):
    folder = layout("repository_parent", tmp_path / "m")
    (folder / "any_name/config.json").unlink()
    (folder / "any_name/tokenizer.json").unlink()
    found = problems(folder)
    assert [(each.code, each.path[len(str(folder)) :]) for each in found] == [
        ("config.missing", "/any_name/config.json"), ("tokenizer.missing", "/any_name"),
    ]  # fmt: skip


def test_a_repository_without_engines_is_told(tmp_path):
    folder = layout("repository_inner", tmp_path / "m")
    for path in (folder / "1").glob("*.engine"):
        path.unlink()
    assert told(folder) == [("weights.missing", "no built engines (*.engine)")]


@pytest.mark.parametrize("name", ["engines", "neuron_split", "repository_inner"])
def test_pointers_are_found_among_all_kinds_of_weights(name, tmp_path):
    folder = layout(name, tmp_path / "m")
    weight = detect(folder).weight_files[0]
    write(folder, {weight: POINTER})
    assert told(folder) == [("weights.lfs-pointer", f"{weight} is a git-lfs pointer, not the file")]


@pytest.mark.parametrize("name", ["engines", "neuron_split", "pickles", "pretrained", "ranked"])
def test_an_empty_weight_file_is_cut_short(name, tmp_path):
    folder = layout(name, tmp_path / "m")
    weight = detect(folder).weight_files[0]
    write(folder, {weight: b""})
    ((code, message),) = told(folder)
    assert (code, weight in message) == ("weights.truncated", True)


def with_index(tmp_path, places):
    folder = write_model(tmp_path / "m", n_shards=2)
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    return folder


SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.mark.parametrize(
    ("name", "escape"),
    [
        ("../secret.safetensors", "leads out of its folder"),
        ("/etc/passwd", "is absolute"),
        ("a\\b.safetensors", "holds a backslash"),
        ("x/../../y.safetensors", "leads out of its folder"),
    ],
)
def test_an_index_may_not_lead_out_of_the_folder(name, escape, tmp_path):
    folder = with_index(tmp_path, {"w1": SHARDS[0], "w2": SHARDS[1], "w3": name})
    assert told(folder) == [
        ("weights.unsafe-name", f"model.safetensors.index.json names {name!r}, which {escape}"),
    ]


def test_tensors_that_the_index_promises_must_be_in_their_file(tmp_path):
    folder = with_index(tmp_path, {"w1": SHARDS[0], "w2": SHARDS[1], **{f"x{i}": SHARDS[1] for i in range(7)}})
    assert told(folder) == [
        ("weights.tensor-missing", f"{SHARDS[1]} lacks 7 tensors of the index: x0, x1, x2, x3, x4 and 2 more"),
    ]


def test_a_tensor_in_two_files_is_told_and_stops_nothing(tmp_path):
    folder = write_model(tmp_path / "m", n_shards=2)
    for name in SHARDS:
        save_file({"same": np.zeros(1, np.float32)}, folder / name)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"same": SHARDS[0], "same2": SHARDS[1]}})
    save_file({"same": np.zeros(1, np.float32), "same2": np.zeros(1, np.float32)}, folder / SHARDS[1])
    (problem,) = problems(folder)
    assert (problem.code, problem.severity) == ("weights.tensor-twice", Severity.WARNING)
    assert problem.message == f"{SHARDS[0]} and {SHARDS[1]} both hold 1 tensor: same"


def test_numbered_files_without_index_are_counted(tmp_path):
    folder = write_model(tmp_path / "m", n_shards=4)
    (folder / "model.safetensors.index.json").unlink()
    assert [code for code, _ in told(folder)] == ["weights.index-missing"]
    (folder / "model-00002-of-00004.safetensors").unlink()
    (folder / "model-00003-of-00004.safetensors").unlink()
    found = told(folder)
    assert [code for code, _ in found] == ["weights.shard-missing", "weights.index-missing"]
    assert found[0][1] == (
        "there are 2 of 4 files; not there: model-00002-of-00004.safetensors, model-00003-of-00004.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [("model.safetensors", []), ("model.fp16.safetensors", ["weights.odd-name"]), ("a.bin", ["weights.odd-name"])],
)
def test_weights_under_a_name_of_their_own_are_told(name, code, tmp_path):
    folder = write_model(tmp_path / "m")
    content = pickled() if name.endswith(".bin") else (folder / WHOLE).read_bytes()
    (folder / WHOLE).unlink()
    (folder / name).write_bytes(content)
    found = problems(folder)
    assert [(each.code, each.severity) for each in found] == [(each, Severity.WARNING) for each in code]


def test_a_number_beyond_all_reason_does_not_take_long(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / WHOLE).rename(folder / "model-00001-of-999999999.safetensors")
    assert [code for code, _ in told(folder)] == ["weights.shard-missing", "weights.index-missing"]


@pytest.mark.parametrize(
    ("tensors", "quantization", "has_problem"),
    [
        ({"model.layers.0.q.qweight": np.int32}, None, True),
        ({"model.layers.0.q.qweight": np.int32}, {"quant_method": "gptq"}, False),
        ({"model.layers.0.q.weight": np.float16}, {"quant_method": "awq"}, True),
        ({"model.layers.0.q.weight": np.float16}, {"quant_method": "bitsandbytes"}, False),
        ({"model.layers.0.q.weight": np.float16}, None, False),
    ],
)
def test_packed_weights_and_what_config_says_of_them_must_agree(tensors, quantization, has_problem, tmp_path):
    folder = write_model(tmp_path / "m")
    save_file({name: np.zeros((2, 2), dtype) for name, dtype in tensors.items()}, folder / WHOLE)
    write_json(folder / "config.json", CONFIG | ({"quantization_config": quantization} if quantization else {}))
    assert [code for code, _ in told(folder)] == ["weights.quantization"] * has_problem


def test_code_that_the_config_names_must_be_there(tmp_path):
    names = {"AutoConfig": "configuration_x.C", "AutoModel": "modeling_x.M", "AutoTokenizer": ["org/name--tok.T", None]}
    folder = write(write_model(tmp_path / "m"), {"config.json": {**CONFIG, "auto_map": names}, "modeling_x.py": ""})
    assert told(folder) == [
        ("model.code-missing", "config.json names code in configuration_x.py, which is not there"),
    ]


TOKENIZERS = [
    ("tokenizer.json", b"{}", "tokenizer.unreadable"),
    ("tokenizer.json", b'{"version": "1.0", "model": {"type": "None"}}', "tokenizer.unreadable"),
    ("tokenizer.json", b"\x00\xff", "tokenizer.unreadable"),
    ("tokenizer.json", b"[" * 100_000, "tokenizer.unreadable"),
    ("tokenizer.json", POINTER, "tokenizer.lfs-pointer"),
    ("tokenizer_config.json", POINTER, "tokenizer.lfs-pointer"),
    ("tokenizer_config.json", b"[]", "tokenizer.unreadable"),
    ("tokenizer_config.json", b"{", "tokenizer.unreadable"),
]
VOCABULARIES = [
    ("tokenizer.model", b"\x0fxx", "it is no sentencepiece model"),
    ("tokenizer.model", b"\x0a\x80\x80\x80", "it stops in the middle of a number"),
    ("tokenizer.model", b"\x0a\x05<u", "it has 4 bytes, and what it describes needs 7 at least"),
    ("tokenizer.model", b"\x12\x00", "it is no sentencepiece model: it has no pieces"),
    ("tokenizer.model", b"", "it is no sentencepiece model: it has no pieces"),
    ("vocab.json", b"{", "is no JSON"),
    ("vocab.json", b"{}", "it has no ids"),
    ("vocab.txt", b"", "it is empty"),
    ("qwen.tiktoken", b"IQ== 0\nIg== x\n", "this line is no token and rank: b'Ig== x'"),
    ("tekken.json", b'{"vocab": 3}', "it has no list 'vocab'"),
]


@pytest.mark.parametrize(("name", "content", "code"), TOKENIZERS)
def test_a_tokenizer_must_load(name, content, code, tmp_path):
    folder = write(write_model(tmp_path / "m"), {name: content})
    assert [code for code, _ in told(folder)] == [code]


@pytest.mark.parametrize(("name", "content", "reason"), VOCABULARIES)
def test_vocabularies_of_older_kinds_must_be_whole(name, content, reason, tmp_path):
    folder = write(write_model(tmp_path / "m"), {name: content})
    (folder / "tokenizer.json").unlink()
    ((code, message),) = told(folder)
    assert (code, message.startswith(f"{name} cannot be loaded: {reason}")) == ("tokenizer.unreadable", True), message


def test_whole_vocabularies_of_older_kinds_are_taken(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    for name, content in {
        "vocab.txt": "[UNK]\nthe\n", "vocab.json": {"a": 0}, "x.tiktoken": "IQ== 0\nIg== 1\n",
        "tekken.json": {"vocab": [{}]},
    }.items():  # fmt: skip
        write(folder, {name: content})
        assert told(folder) == []
        (folder / name).unlink()


def test_a_sentencepiece_model_loads_whole_and_not_cut(tmp_path):
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder = write_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    trainer.train(input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=30, minloglevel=2)
    (folder / "tokenizer.vocab").unlink()
    assert told(folder) == []
    write_json(folder / "config.json", {**CONFIG, "vocab_size": 29})
    assert [code for code, _ in told(folder)] == ["tokenizer.vocabulary"]
    whole = (folder / "tokenizer.model").read_bytes()
    write(folder, {"tokenizer.model": whole[: len(whole) // 2]})
    assert [code for code, _ in told(folder)] == ["tokenizer.unreadable"]


@pytest.mark.parametrize(("n_embedded", "has_problem"), [(299, True), (300, False), (512, False)])
def test_a_tokenizer_with_more_ids_than_the_model_is_told(n_embedded, has_problem, tmp_path):
    folder = write(write_model(tmp_path / "m"), {"config.json": {**CONFIG, "vocab_size": n_embedded}})
    expected = [("tokenizer.vocabulary", "tokenizer.json has ids up to 299, the model's vocab_size is 299")]
    assert told(folder) == expected * has_problem


BEYOND = {"id": 300, "content": "<far>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.mark.parametrize(
    ("is_special", "template", "n_rows", "has_problem"),
    [
        pytest.param(True, "{{ messages }}", 300, False, id="for pictures or padding"),
        pytest.param(True, "<far>{{ messages }}", 300, True, id="the template writes it"),
        pytest.param(False, "{{ messages }}", 300, True, id="a word like any other"),
        pytest.param(False, "{{ messages }}", 308, False, id="the embedding has more rows than config.json says"),
    ],
)
def test_a_token_beyond_the_embedding_is_told_where_prompts_may_have_it(
    is_special, template, n_rows, has_problem, tmp_path
):
    folder = write_model(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**BEYOND, "special": is_special})
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    config = {**CONFIG, "vocab_size": 300}
    write(folder, {"tokenizer.json": content, "tokenizer_config.json": settings, "config.json": config})
    save_file({"model.embed_tokens.weight": np.zeros((n_rows, 2), np.float32)}, folder / WHOLE)
    assert [code for code, _ in told(folder)] == ["tokenizer.vocabulary"] * has_problem


def test_a_large_tokenizer_elsewhere_is_not_fetched_for_a_check_and_that_is_said(tmp_path):
    folder = write_model(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    write(folder, {"tokenizer.json": json.dumps(content) + " " * (4 << 20)})
    files = Elsewhere(folder)
    (problem,) = check(detect(files), files)
    assert (problem.code, problem.severity) == ("tokenizer.not-checked", Severity.WARNING)
    assert files.n_bytes < 1 << 20
    assert check(folder) == []


def test_files_that_cannot_be_read_are_problems_too(tmp_path):
    folder = write_model(tmp_path / "m")

    class Broken(Elsewhere):
        def read(self, name, start=0, n_bytes=None):
            if not name.endswith("_config.json"):
                raise OSError(f"{name}: connection reset")
            return super().read(name, start, n_bytes)

    files = Broken(folder)
    assert [each.code for each in check(detect(files), files)] == [
        "config.unreadable", "weights.unreadable", "tokenizer.unreadable",
    ]  # fmt: skip
