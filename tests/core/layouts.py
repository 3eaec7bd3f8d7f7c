# SPDX-License-Identifier: Apache-2.0
"""Every layout of model files that is served, written small; and a stand-in for a place elsewhere."""

import io
import json
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.core.model_folders import CONFIG, write_model

NEURON = {"auto_cast_type": "fp16", "batch_size": 1, "compiler_version": "2.12.68.0", "num_cores": 2}
PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 300, "max_seq_len": 4096}


def pickled(content: object = None) -> bytes:
    """A file of PyTorch: an archive with one pickle and the numbers of a tensor."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({} if content is None else content, 2))
        archive.writestr("archive/data/0", bytes(256))
        archive.writestr("archive/version", b"3\n")
    return target.getvalue()


def write(folder: Path, files: Mapping[str, object]) -> Path:
    """Files by name: bytes and text as they are, everything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def gguf(**texts: str) -> bytes:
    """The beginning of a GGUF file, with a number and a list in front of the texts."""
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(texts) + 2)
    data += _gguf_text("general.alignment") + struct.pack("<II", 4, 32)
    data += _gguf_text("general.tags") + struct.pack("<IIQ", 9, 8, 1) + _gguf_text("tag")
    for key, text in texts.items():
        data += _gguf_text(key.replace("__", ".")) + struct.pack("<I", 8) + _gguf_text(text)
    return data


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _config_and_tokenizer(folder: Path, **config: object) -> Path:
    write_tokenizer(folder)
    return write(folder, {"config.json": {**CONFIG, **config}})


def pretrained(folder: Path) -> None:
    write_model(folder)


def sharded(folder: Path) -> None:
    write_model(folder, n_shards=3)


def pickles(folder: Path) -> None:
    write(_config_and_tokenizer(folder), {"pytorch_model.bin": pickled()})


def sharded_pickles(folder: Path) -> None:
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    write(_config_and_tokenizer(folder), {"pytorch_model.bin.index.json": index, **dict.fromkeys(names, pickled())})


def multimodal(folder: Path) -> None:
    write_model(folder)
    text = {"max_position_embeddings": 512, "vocab_size": 300, "eos_token_id": 3}
    write(folder, {"config.json": {"model_type": "llava", "architectures": ["Llava"], "text_config": text}})
    (folder / "generation_config.json").unlink()


def _repository(folder: Path) -> None:
    _config_and_tokenizer(folder)
    write(
        folder,
        {
            "config.pbtxt": 'name: "model"\nbackend: "any"\n',
            "1/llama_float16_tp2_rank0.engine": b"e" * 8,
            "1/llama_float16_tp2_rank1.engine": b"e" * 8,
            "1/config.json": {"builder_config": {"tensor_parallel": 2}},
            "1/model.cache": b"c",
        },
    )


def repository_parent(folder: Path) -> None:
    _repository(folder / "any_name")
    write(folder, {"requirements.txt": ""})


def repository_inner(folder: Path) -> None:
    _repository(folder)


def repository_pipeline(folder: Path) -> None:
    _repository(folder / "middle")
    for name in ("before", "zz_behind"):
        write(folder, {f"{name}/config.pbtxt": "", f"{name}/tokenizer_config.json": {}, f"{name}/1/model.py": ""})


def engines(folder: Path) -> None:
    write_tokenizer(folder)
    inside = {"architecture": "LlamaForCausalLM", "max_position_embeddings": 4096, "vocab_size": 300}
    config = {"version": "0.9.0", "pretrained_config": inside, "build_config": {"max_seq_len": 1024}}
    write(folder, {"config.json": config, "rank0.engine": b"e", "rank1.engine": b"ee"})


def neuron_old(folder: Path) -> None:
    write(
        _config_and_tokenizer(folder, neuron=NEURON),
        {
            "checkpoint/config.json": CONFIG,
            "checkpoint/pytorch_model.bin/key_to_filename.json": {},
            "checkpoint/pytorch_model.bin/p0.model.embed_tokens.weight": pickled(),
            "checkpoint/pytorch_model.bin/p1.lm_head.weight": pickled(),
            "compiled/a.neff": b"n",
            "compiled/VERSION": "2.12.68.0\n",
        },
    )


def neuron_new(folder: Path) -> None:
    write_model(folder)
    write(folder, {"neuron_config.json": {"tp_degree": 2}, "model.pt": pickled(), "compiled/a.neff": b"n"})


def neuron_split(folder: Path) -> None:
    start = "pytorch_model.bin"
    write(
        _config_and_tokenizer(folder),
        {f"{start}/key_to_filename.json": {}, f"{start}/p0.model.embed_tokens.weight": pickled()},
    )


def adapter(folder: Path) -> None:
    write(folder, {"adapter_config.json": {"base_model_name_or_path": "org/base", "r": 8}})
    write_tokenizer(folder)
    save_file({"a": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")


def ranked(folder: Path) -> None:
    checkpoints = {"tp": ["tp_00_00.pt", "tp_01_00.pt"], "non_tp": ["non-tp.pt"]}
    names = [name for part in checkpoints.values() for name in part]
    write(
        _config_and_tokenizer(folder),
        {"ds_inference_config.json": {"type": "ds_model", "checkpoints": checkpoints, "tp_size": 2}}
        | dict.fromkeys(names, pickled()),
    )


def ranked_safe(folder: Path) -> None:
    checkpoints = {"tp": ["tp_00_00.safetensors"], "non_tp": ["non-tp.safetensors"]}
    content = {"type": "ds_model", "checkpoints": checkpoints, "tp_size": 1}
    write(_config_and_tokenizer(folder), {"ds_inference_config.json": content})
    for name in ("tp_00_00", "non-tp"):
        save_file({f"{name}.weight": np.zeros((4, 4), np.float16)}, folder / f"{name}.safetensors")


def ranked_list(folder: Path) -> None:
    content = {"type": "BLOOM", "checkpoints": [["a.bin"], "b.bin"], "version": 1.0}
    write(_config_and_tokenizer(folder), {"any.json": content, "a.bin": pickled(), "b.bin": pickled()})


def mistral(folder: Path) -> None:
    vocabulary = {"config": {"default_vocab_size": 300}, "vocab": [{"rank": 0, "token_bytes": "AA=="}]}
    write(folder, {"params.json": PARAMS, "tekken.json": vocabulary})
    save_file({"layers.0.wq.weight": np.zeros((4, 4), np.float16)}, folder / "consolidated.safetensors")


def only_code(folder: Path) -> None:
    write(folder, {"model.py": "def handle(inputs): ...\n", "serving.properties": "", "requirements.txt": "numpy\n"})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        pretrained, sharded, pickles, sharded_pickles, multimodal, repository_parent, repository_inner,
        repository_pipeline, engines, neuron_old, neuron_new, neuron_split, adapter, ranked, ranked_safe, ranked_list,
        mistral, only_code,
    )
}  # fmt: skip
"""Layouts that are served, by name; the function writes one into a folder."""


def layout(name: str, folder: Path) -> Path:
    """A folder with that layout."""
    folder.mkdir(parents=True, exist_ok=True)
    LAYOUTS[name](folder)
    return folder


class Elsewhere(ModelFiles):
    """The files of a folder as if they were far away: everything is read by ranges, and counted.

    Args:
        folder: a folder with a model.
    """

    def __init__(self, folder: Path) -> None:
        self.place = "s3://bucket/model"
        local = LocalFiles(folder)
        self.sizes = local.sizes
        self._root = str(local.folder)
        self._lock = threading.Lock()
        self.n_bytes = self.n_reads = 0

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        number = os.open(f"{self._root}/{name}", os.O_RDONLY)
        try:
            size = self.sizes[name] if n_bytes is None else n_bytes
            data = os.pread(number, min(size, max(0, self.sizes[name] - start)), start)
        finally:
            os.close(number)
        with self._lock:
            self.n_bytes += len(data)
            self.n_reads += 1
        return data


@contextmanager
def no_disk() -> Iterator[None]:
    """Nothing is opened or listed but through a ModelFiles of the test's own."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the disk was touched: {arguments}")

    with mock.patch("builtins.open", refuse), mock.patch("io.open", refuse), mock.patch("os.scandir", refuse):
        yield
