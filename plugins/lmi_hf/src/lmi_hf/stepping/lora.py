# SPDX-License-Identifier: Apache-2.0
"""What LoRA adapters add to matrix products, each to the rows of a step that are its own.

Source: Hu et al. 2021, LoRA; batches of several adapters as in Punica (Chen et al. 2023), with plain matrix products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from typing import Any, TypeAlias, TypeGuard

import torch


class AdapterRows:
    """Which rows of a step have which adapter.

    Args:
        names: the adapter of each row, empty for none.
    """

    def __init__(self, names: Sequence[str]) -> None:
        distinct = set(names)
        self.names = tuple(sorted(distinct - {""}))
        """Each adapter once; the same ones are in the same order in every step."""
        self.is_uniform = len(distinct) == 1
        """Whether all rows have the same one."""
        self._of_rows = names
        self._masks: dict[tuple[Any, ...], torch.Tensor] = {}

    def others(self, ranks: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Where a column is not of the row's adapter: [n_rows, sum of ranks].

        Args:
            ranks: columns of each adapter, in the order of ``names``.
            device: where it is wanted.
        """
        key = (ranks, device)
        if key not in self._masks:
            numbers = {name: number for number, name in enumerate(self.names)}
            of_rows = torch.tensor([numbers.get(name, -1) for name in self._of_rows], device=device)
            self._masks[key] = of_rows[:, None] != torch.repeat_interleave(torch.tensor(ranks, device=device))
        return self._masks[key]


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One adapter's matrices for a product: x @ down @ up, added from ``first_column`` on.

    Args:
        down: [in, rank], of several layers side by side.
        up: [rank, out], scaled; of several layers, each in the rows and columns of its own, zeros elsewhere.
    """

    first_column: int
    down: torch.Tensor
    up: torch.Tensor

    @property
    def end(self) -> int:
        """The column behind its last one."""
        return self.first_column + self.up.shape[1]

    def beside(self, other: _Pair) -> _Pair:
        """Both in one pair: two products a step instead of four, and calls are what a small product costs."""
        first = min(self.first_column, other.first_column)
        n_rows = len(self.up) + len(other.up)
        up = self.up.new_zeros(n_rows, max(self.end, other.end) - first)
        up[: len(self.up), self.first_column - first : self.end - first] = self.up
        up[len(self.up) :, other.first_column - first : other.end - first] = other.up
        return _Pair(first_column=first, down=torch.cat([self.down, other.down], dim=1), up=up)


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """The matrices of several adapters in one pair; None where none of them changes the layer.

    Args:
        names: the adapters.
        ranks: how many columns of ``down`` each has.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]
    pair: _Pair | None


class LoraLayer:
    """What adapters add to one product, possibly of several layers with the same input.

    Args:
        device, dtype: of the product and what goes in.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._pairs: dict[str, _Pair] = {}
        self._joined: _Joined | None = None  # of the adapters that were in the last step

    def put(self, adapter: str, first_column: int, down: torch.Tensor, up: torch.Tensor) -> None:
        """Add an adapter's matrices; another thread may be in ``add_to``.

        Args:
            adapter: its name.
            first_column: of the product, where this layer's part of it begins.
            down: [in, rank], on any device.
            up: [rank, out], scaled.
        Raises:
            ValueError: a number is not finite in the layer's type; every row of a step would have it.
        """
        down, up = (each.to(self._dtype) for each in (down, up))
        if not all(bool(each.isfinite().all()) for each in (down, up)):
            raise ValueError(f"a number is not finite in {str(self._dtype).removeprefix('torch.')}")
        down, up = (each.to(self._device).contiguous() for each in (down, up))
        pair = _Pair(first_column=first_column, down=down, up=up)
        before = self._pairs.get(adapter)
        self._pairs[adapter] = pair if before is None else before.beside(pair)
        self._joined = None

    def drop(self, adapter: str) -> None:
        """Forget an adapter's matrices; one that has none here is ignored."""
        self._pairs.pop(adapter, None)
        self._joined = None

    def add_to(self, product: torch.Tensor, x: torch.Tensor, rows: AdapterRows) -> None:
        """Change a product [n, out] of x [n, in], in place.

        All adapters of the step are computed for all rows, and what is not a row's own is masked: small products cost
        their calls, not their numbers.
        """
        joined = self._joined
        if joined is None or joined.names != rows.names:
            joined = self._joined = self._join(rows.names)
        pair = joined.pair
        if pair is None:
            return
        inner = x @ pair.down
        if not rows.is_uniform:
            # Not a product with 0: what is infinite for one row must not become NaN in the others.
            inner = inner.masked_fill_(rows.others(joined.ranks, inner.device), 0.0)
        product[:, pair.first_column : pair.end].addmm_(inner, pair.up)

    def _join(self, names: tuple[str, ...]) -> _Joined:
        pairs = [self._pairs.get(name) for name in names]
        found = [pair for pair in pairs if pair is not None]
        ranks = tuple(0 if pair is None else len(pair.up) for pair in pairs)
        return _Joined(names=names, ranks=ranks, pair=reduce(_Pair.beside, found) if found else None)


Layers: TypeAlias = Mapping[str, tuple[LoraLayer, int]]
"""By the name of a module in the model: what its product is made with, and the first of its columns there."""


class HookedLayers:
    """The layers of a model whose own forward runs, with what adapters add to them.

    Which layers can have adapters is found out while the model is checked, before it serves: those that compute one
    row for each row of the step. The experts of a mixture compute others.

    Args:
        model: of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._rows: AdapterRows | None = None
        self._n_rows = 0
        self._n_forwards = 0
        self._n_calls: Counter[str] = Counter()
        self._misfits: set[str] = set()
        self._found: dict[str, LoraLayer] = {}
        self._is_settled = False
        self._handles = {
            name: module.register_forward_hook(partial(self._hook, name))
            for name, module in model.named_modules()
            if not any(True for _ in module.children()) and _has_weights(module)
        }

    def begin(self, n_rows: int, rows: AdapterRows | None) -> None:
        """A forward of so many rows comes."""
        self._n_rows, self._rows = n_rows, rows
        self._n_forwards += 1

    def settle(self) -> Layers:
        """Keep the layers that have computed each row of each forward until now."""
        self._is_settled = True
        fits = {
            name for name, n_calls in self._n_calls.items() if n_calls == self._n_forwards and name not in self._misfits
        }
        for name in self._handles.keys() - fits:
            self._handles.pop(name).remove()
        return {name: (self._found[name], 0) for name in fits}

    def undo(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles.values():
            handle.remove()

    def _hook(self, name: str, _: Any, given: tuple[Any, ...], product: Any) -> None:
        if not self._is_settled:
            self._learn(name, given, product)
        elif self._rows is not None:
            layer, n_rows = self._found[name], self._n_rows
            layer.add_to(product.view(n_rows, -1), given[0].to(product.device).view(n_rows, -1), self._rows)

    def _learn(self, name: str, given: tuple[Any, ...], product: Any) -> None:
        self._n_calls[name] += 1
        x = given[0] if given else None
        if self._has_rows(x) and self._has_rows(product) and x.dtype == product.dtype:
            self._found[name] = LoraLayer(product.device, product.dtype)
        else:
            self._misfits.add(name)

    def _has_rows(self, tensor: Any) -> TypeGuard[torch.Tensor]:
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.ndim:
            return False
        return tensor.is_contiguous() and tensor.numel() == self._n_rows * tensor.shape[-1]


def _has_weights(module: torch.nn.Module) -> bool:
    """Compressed ones are buffers, with some libraries."""
    return any(True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False)))


def joined(prefix: str, layer: LoraLayer, widths: Mapping[str, int]) -> Layers:
    """Modules whose matrices are joined in one product.

    Args:
        prefix: of the modules' names.
        layer: of the product.
        widths: columns of each module, in their order.
    """
    found, first = {}, 0
    for name, width in widths.items():
        found[prefix + name] = (layer, first)
        first += width
    return found
