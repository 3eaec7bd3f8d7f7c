# SPDX-License-Identifier: Apache-2.0
"""The matrices of LoRA adapters beside those of the model they change, by the headers of both; no tensor is read.

Source: the checkpoint format of PEFT: for a matrix of ``out x in`` there are ``lora_A`` of ``rank x in`` and ``lora_B``
of ``out x rank``, both called as the matrix is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lmi.api import Adapter, ArtifactFormat, ModelArtifacts, Problem, Severity, adapter_problem, adapters_of
from lmi.api.adapters import WEIGHTS
from lmi.api.errors import counted
from lmi.api.shapes import ModelShape
from lmi.artifacts.headers import Tensor, headers_of
from lmi.artifacts.places.files import ModelFiles

Place = tuple[int, str]
"""Number of a layer, and a matrix in it; -1 and its last name for one outside the layers."""

Size = tuple[int, ...]

_MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_IN_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")
_OUTSIDE = -1
_SAFETENSORS = ".safetensors"
_PLAIN = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
"""Types of numbers that a matrix is stored in as it is; others are packed, in shapes of their own."""

_TOLD_BY_CONFIG = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite")
"""Families whose matrices all have the sizes that their config.json tells."""

_EXPERTS = "experts"
"""What the names of experts' matrices have in them, which are stored in other ways than they are adapted."""

_OTHER_MODEL = "Use an adapter that was trained on this model"


def lora_problems(model: ModelArtifacts, files: ModelFiles | None) -> list[Problem]:
    """What is wrong with the matrices of the adapters beside a model; headers that cannot be read are left to others.

    Args:
        model: says what lies beside it.
        files: where it is; None where there is no model.
    """
    if files is None:
        return []
    named = {f"{each.folder}{WEIGHTS[0]}": each for each in adapters_of(model) if each.name}
    headers = headers_of(files, [name for name in named if name in files.sizes])
    return [
        problem
        for header in headers
        if not header.code
        for problem in matrix_problems(model, files, named[header.name], header.tensors)
    ]


def matrix_problems(
    model: ModelArtifacts, files: ModelFiles, adapter: Adapter, tensors: Mapping[str, Tensor]
) -> list[Problem]:
    """What is wrong with the matrices of one adapter; nothing of one that is no LoRA.

    Args:
        model: which it is for.
        files: where the model's weights are.
        adapter: one of ``adapters_of``.
        tensors: of its weights' header.
    """
    if adapter.method != "LORA" or not adapter.config:
        return []
    return list(_problems(model, adapter, tensors, _places_of(model, files)))


def _places_of(model: ModelArtifacts, files: ModelFiles) -> dict[Place, set[Size]]:
    """The model's matrices and their sizes, none for one whose size is not known; empty where nothing is known."""
    if model.format is not ArtifactFormat.PRETRAINED:
        return {}
    names = [name for name in model.weight_files if name.endswith(_SAFETENSORS) and name in files.sizes]
    headers = headers_of(files, names)
    if not names or any(header.code for header in headers):
        return _told_by_config(model)
    places: dict[Place, set[Size]] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            module, _, parameter = name.rpartition(".")
            sizes = places.setdefault(_place(module), set())
            if parameter == "weight" and len(tensor.shape) == 2 and tensor.dtype in _PLAIN:
                sizes.add(tensor.shape)
    return places


def _told_by_config(model: ModelArtifacts) -> dict[Place, set[Size]]:
    shape = ModelShape.of(model.config)
    if model.model_type not in _TOLD_BY_CONFIG:
        return {}
    query, value = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    hidden, inner = shape.hidden, shape.intermediate
    sizes = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (value, hidden), "self_attn.v_proj": (value, hidden),
        "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    if not all(min(each) for each in sizes.values()):
        return {}
    around: dict[Place, set[Size]] = {(_OUTSIDE, name): set() for name in ("lm_head", "embed_tokens")}
    return around | {(layer, name): {size} for layer in range(shape.n_layers) for name, size in sizes.items()}


def _place(module: str) -> Place:
    """Where a matrix is. What stands before the layer's number is called differently here and there."""
    found = _IN_LAYER.search(module)
    return (int(found[1]), found[2]) if found else (_OUTSIDE, module.rpartition(".")[2])


def _problems(
    model: ModelArtifacts, adapter: Adapter, tensors: Mapping[str, Tensor], places: Mapping[Place, set[Size]]
) -> Iterator[Problem]:
    pairs: dict[str, dict[str, Size]] = {}
    for name, tensor in tensors.items():
        found = _MATRIX.fullmatch(name)
        if found and len(tensor.shape) == 2:
            pairs.setdefault(found[1], {})[found[2]] = tensor.shape
    if not pairs:
        said = f"has no LoRA matrix among its {counted(len(tensors), 'tensor')}"
        yield adapter_problem("adapter.incomplete", model, adapter, said, "Save it again (peft: save_pretrained)")
        return
    halves = [f"{module}.lora_{'B' if 'A' in pair else 'A'}" for module, pair in pairs.items() if len(pair) == 1]
    if halves:
        said = f"lacks {_first(halves)}"
        yield adapter_problem("adapter.incomplete", model, adapter, said, "Save it again (peft: save_pretrained)")
    whole = {module: pair for module, pair in pairs.items() if len(pair) == 2}
    yield from _rank_problems(model, adapter, whole)
    if places:
        yield from _place_problems(model, adapter, whole, places)


def _rank_problems(model: ModelArtifacts, adapter: Adapter, pairs: Mapping[str, dict[str, Size]]) -> Iterator[Problem]:
    pattern = adapter.config.get("rank_pattern")
    told = {adapter.config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())}
    others = [
        f"{module} has {pair['A'][0]} and {pair['B'][1]}"
        for module, pair in pairs.items()
        if pair["A"][0] != pair["B"][1] or pair["A"][0] not in told
    ]
    if others:
        said = f"has matrices of another rank than the {adapter.config.get('r')} of its configuration: {_first(others)}"
        yield adapter_problem("adapter.rank", model, adapter, said, "Take configuration and weights of one training")


def _place_problems(
    model: ModelArtifacts, adapter: Adapter, pairs: Mapping[str, dict[str, Size]], places: Mapping[Place, set[Size]]
) -> Iterator[Problem]:
    names = {name for _, name in places}
    odd, beyond, strange = [], [], []
    for module, pair in pairs.items():
        place, size = _place(module), (pair["B"][0], pair["A"][1])
        sizes = places.get(place)
        if sizes is None and place[1] in names:
            beyond.append(module)
        elif sizes is None and place[0] != _OUTSIDE and _EXPERTS not in module:  # a head may be stored as embedding
            strange.append(module)
        elif sizes and size not in sizes and size[::-1] not in sizes:  # some families store a matrix the other way
            odd.append(f"{module} is {' or '.join(map(_sized, sorted(sizes)))}, and {_sized(size)} for the adapter")
    if odd:
        said = f"was made for matrices of other sizes than this model's: {_first(odd)}"
        yield adapter_problem("adapter.shape", model, adapter, said, _OTHER_MODEL)
    if beyond:
        n_layers = 1 + max(layer for layer, _ in places)
        said = f"changes {_first(beyond)}; this model has no such layer, it has {n_layers}"
        yield adapter_problem("adapter.unknown-modules", model, adapter, said, _OTHER_MODEL)
    if strange:
        severity = Severity.ERROR if len(strange) == len(pairs) else Severity.WARNING
        said = f"changes {_first(strange)}, which this model's weights do not have"
        yield adapter_problem("adapter.unknown-modules", model, adapter, said, _OTHER_MODEL, severity=severity)


def _sized(size: Size) -> str:
    return " x ".join(map(str, size))


def _first(items: list[str]) -> str:
    """The first of some, and how many there are."""
    return items[0] if len(items) == 1 else f"{items[0]}, and {len(items) - 1} more"
