# SPDX-License-Identifier: Apache-2.0
"""Weight matrices laid out for steps of few rows: joined projections, transposed or packed once at load.

Measured on 2 cores (Intel, avx512_bf16), 576 x 3072 weights, us a product with 1 / 8 / 32 rows: bf16 as loaded
124 / 275 / 795, packed 63 / 189 / 693; fp32 as loaded 250 / 723 / 1225, transposed 239 / 317 / 844 (1 core).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from lmi_hf.stepping.lora import AdapterRows, LoraLayer


class Projection:
    """One matrix product, possibly of several linear layers with the same input.

    The layers keep working until ``pack``: their weights become views of the joined matrix.

    Args:
        layers: their outputs are joined in this order.
        keeps_layout: leave a single layer's memory as it is (an embedding shares it).
    """

    def __init__(self, layers: Sequence[torch.nn.Linear], *, keeps_layout: bool = False) -> None:
        self._layers = list(layers)
        first = layers[0].weight
        if keeps_layout and len(layers) == 1:
            self.weight = first.detach()
        elif first.device.type == "cpu" and first.dtype == torch.float32:
            self.weight = torch.cat([layer.weight.detach().t() for layer in layers], dim=1).t()
        else:
            self.weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = torch.cat([bias.detach() for bias in biases]) if biases else None
        self._packed: torch.Tensor | None = None
        self.widths = [layer.out_features for layer in layers]
        self.lora = LoraLayer(first.device, first.dtype)
        if not keeps_layout:
            self._share()

    def __call__(self, x: torch.Tensor, adapters: AdapterRows | None = None) -> torch.Tensor:
        """x [n_rows, in] times the transposed weight: [n_rows, sum of out]; with what adapters add to their rows."""
        if self._packed is None:
            product = linear(x, self.weight, self.bias)
        else:
            product = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        if adapters is not None:
            self.lora.add_to(product, x, adapters)
        return product

    def pack(self) -> bool:
        """Lay a bf16 matrix out for oneDNN, once instead of at each product; the layers lose their weights.

        Returns:
            Whether it was done: only on CPUs, only where the packed product is the same.
        """
        if self.weight.device.type != "cpu" or self.weight.dtype != torch.bfloat16 or not can_pack():
            return False
        with torch.inference_mode(False), torch.no_grad():
            packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight.clone(), None)
        self._packed = packed
        empty = self.weight.new_empty(0)
        self.weight = empty
        for layer in self._layers:
            layer.weight = torch.nn.Parameter(empty, requires_grad=False)
        self._layers = []
        return True

    def _share(self) -> None:
        first = 0
        for layer in self._layers:
            last = first + layer.out_features
            layer.weight = torch.nn.Parameter(self.weight[first:last], requires_grad=False)
            first = last


def can_pack() -> bool:
    """Whether this torch has oneDNN's packed product and it computes what it should (tried on a small matrix)."""
    if not bool(torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, generator=generator).bfloat16()
    x = torch.randn(3, 32, generator=generator).bfloat16()
    try:
        with torch.inference_mode(False), torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            product = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):  # a torch without the operator, or with another signature
        return False
    return torch.allclose(product.float(), linear(x, weight).float(), atol=0.1, rtol=0.05)
