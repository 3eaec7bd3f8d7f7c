# SPDX-License-Identifier: Apache-2.0
"""A split model as files: one or more for each rank, and a json that lists them in the form of DeepSpeed's own.

A rank that loads them reads its own part only, and the model is never whole in memory.
Source of the form: ``deepspeed/module_inject/replace_module.py`` (``save_mp_checkpoint_path``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lmi.api import ArtifactFormat, EngineLoadError, ModelArtifacts, Ranks
from lmi.api.folders import copy_documents
from lmi_deepspeed.ranked import WRITTEN_BY_LMI

_SAME = "non-tp.safetensors"
"""What all ranks read."""
_LEFT = ("adapter_config.json", WRITTEN_BY_LMI)
"""What the folder is not: an adapter; and what it gets anew."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ShardList:
    """The json that lists the files of a split model, or of a whole one.

    Args:
        path: of the json.
    Raises:
        EngineLoadError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text("utf-8"))
            listed = content["checkpoints"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _unusable(path, f"cannot be used: {type(error).__name__}: {error}") from error
        self._folder = path.parent / str(content.get("base_dir") or "")
        is_split = isinstance(listed, dict)
        self._split = _texts(listed.get("tp")) if is_split else []
        self._same = _texts(listed.get("non_tp") if is_split else listed)
        self.n_ranks = int(content.get("mp_size", content.get("tp_size", len(self._split))) or 1)
        self.dtype: torch.dtype | None = _DTYPES.get(str(content.get("dtype")))

    @property
    def is_split(self) -> bool:
        """Whether each rank has files of its own; otherwise all read the whole weights."""
        return bool(self._split)

    def weights(self, ranks: Ranks, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The tensors of a rank, by their names in the split model.

        Args:
            ranks: whose.
            dtype: what tensors of the shards' type are converted to.
        Raises:
            EngineLoadError: they were made for another number of ranks, or a file cannot be read.
        """
        if self.is_split and self.n_ranks != ranks.size:
            raise _unusable(self.path, f"lists shards for {self.n_ranks} ranks; this is one of {ranks.size}")
        own = self._split[ranks.rank :: ranks.size]
        found: dict[str, torch.Tensor] = {}
        for name in [*self._same, *own]:
            found.update(_read(self._folder / name))
        wrong = self.dtype if self.dtype is not None else dtype
        return {name: tensor.to(dtype) if tensor.dtype == wrong else tensor for name, tensor in found.items()}


def _texts(listed: Any) -> list[str]:
    """The names in a list, or in lists in it. DeepSpeed lists the first file of each rank, then the second of each."""
    entries = listed if isinstance(listed, list) else [listed] if listed else []
    return [name for each in entries for name in (each if isinstance(each, list) else [each])]


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        read: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return read
    except Exception as error:  # whatever a file of an unknown kind does to its reader
        raise _unusable(path, f"cannot be read: {type(error).__name__}: {error}") from error


def empty(arguments: dict[str, Any]) -> Any:
    """A causal language model, in evaluation mode, whose parameters have sizes but no memory; its buffers are real.

    Args:
        arguments: config, dtype and trust_remote_code, as transformers' ``from_pretrained`` has them.
    """
    import accelerate
    import transformers

    with accelerate.init_empty_weights(include_buffers=False):
        model: Any = transformers.AutoModelForCausalLM.from_config(**arguments)  # type: ignore[no-untyped-call]
    return model.train(False).requires_grad_(False)


def fill(model: Any, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put a rank's tensors in place of the empty ones of a model that was split without weights.

    Args:
        model: of transformers, split; its buffers count.
        weights: by name.
        path: of the json that lists them, for the error.
    Raises:
        EngineLoadError: some are absent, or are not this model's.
    """
    found = model.load_state_dict(weights, strict=False, assign=True)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    absent = [name for name in found.missing_keys if name not in tied]
    if absent or found.unexpected_keys:
        said = [f"no {name}" for name in absent[:3]] + [f"{name} too many" for name in found.unexpected_keys[:3]]
        raise _unusable(path, f"has not this model's tensors, split by AutoTP ({', '.join(said)}, ...)")
    if found.missing_keys:
        model.tie_weights()
    model.train(False)
    model.requires_grad_(False)


def save(model: Any, folder: str, artifacts: ModelArtifacts, ranks: Ranks) -> None:
    """Write this rank's part, and with rank 0 what makes the folder a model; the json that lists all comes last.

    Args:
        model: of transformers, split.
        folder: is made; files of the same names are replaced.
        artifacts: whose configuration and tokenizer are copied.
        ranks: which part this is.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if ranks.rank == 0:
        (target / WRITTEN_BY_LMI).unlink(missing_ok=True)
    split = set(_split_names(model))
    tensors = dict(_distinct(model.state_dict()))
    own = {name: tensor for name, tensor in tensors.items() if name in split}
    _write(own, target / _own_name(ranks.rank))
    if ranks.rank == 0:
        same = {name: tensor for name, tensor in tensors.items() if name not in split}
        _write(same, target / _SAME)
        _copy_documents(model, artifacts, target)
    _wait_for_all(ranks)
    if ranks.rank == 0:
        _write_list(model, target, ranks)
    _wait_for_all(ranks)


def _own_name(rank: int) -> str:
    return f"tp_{rank:02d}_00.safetensors"


def _split_names(model: Any) -> Iterator[str]:
    """Names of the tensors that differ over ranks, or may: those of the layers that DeepSpeed put in."""
    from deepspeed.module_inject.layers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        TensorParallel_Layer,
    )

    for name, module in model.named_modules():
        if isinstance(module, TensorParallel_Layer):
            yield from (f"{name}.{each}" for each in module.state_dict())


def _distinct(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under the first of its names: tied ones are one."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor.detach().cpu().contiguous()


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    unfinished = path.with_name(f"{path.name}.part")
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.replace(path)


def _copy_documents(model: Any, artifacts: ModelArtifacts, target: Path) -> None:
    if artifacts.format is ArtifactFormat.ADAPTER:
        model.config.save_pretrained(target)
    copy_documents(artifacts.path, target, but=_LEFT)


def _write_list(model: Any, target: Path, ranks: Ranks) -> None:
    content = {
        "type": "bloom" if model.config.model_type == "bloom" else "ds_model",
        "checkpoints": {"non_tp": [_SAME], "tp": [_own_name(rank) for rank in range(ranks.size)]},
        "version": 1.0,
        "parallelization": "tp",
        "tp_size": ranks.size,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    unfinished = target / f"{WRITTEN_BY_LMI}.part"
    unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    unfinished.replace(target / WRITTEN_BY_LMI)


def _wait_for_all(ranks: Ranks) -> None:
    if ranks.size > 1:
        from deepspeed import comm  # type: ignore[import-not-found,import-untyped,unused-ignore]

        comm.barrier()


def _unusable(path: Path, said: str) -> EngineLoadError:
    return EngineLoadError(
        "weights.bad-checkpoint",
        f"{path} {said}",
        "Write the shards again with option.save_mp_checkpoint_path, or load the whole model without option.checkpoint",
    )
