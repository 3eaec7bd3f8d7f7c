# SPDX-License-Identifier: Apache-2.0
"""The decoder of Llama's family as one plain loop: the same weights and mathematics, a third of the calls a layer.

At one sequence a step of the model's own forward is nine tenths Python and small operations (SmolLM2-135M on 2 cores:
41 ms a token, of which 6 ms matrix products); this loop leaves most of that out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding, rms_norm, silu

from lmi_hf.stepping.arena import LayerRows, LayerShape
from lmi_hf.stepping.attention import attend
from lmi_hf.stepping.lora import AdapterRows, Layers, LoraLayer, joined
from lmi_hf.stepping.plan import Plan
from lmi_hf.stepping.weights import Projection, can_pack

FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""``model_type`` of the architectures whose code this loop follows; each load is checked against the model's own
forward besides."""

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj"}


class _Layer:
    """One decoder layer's weights and sizes."""

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.norm_before, self.norm_after = _norm(module.input_layernorm), _norm(module.post_attention_layernorm)
        self.head_size = int(attention.head_dim)
        self.n_heads = attention.q_proj.out_features // self.head_size
        self.n_kv_heads = attention.k_proj.out_features // self.head_size
        self.scale = float(attention.scaling)
        self.window = _window(attention)
        self.head_norms = None
        if hasattr(attention, "q_norm"):
            self.head_norms = (_norm(attention.q_norm), _norm(attention.k_norm))
        self.qkv = Projection([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = Projection([attention.o_proj])
        self.gate_up = Projection([mlp.gate_proj, mlp.up_proj])
        self.down = Projection([mlp.down_proj])
        self.n_inner = mlp.gate_proj.out_features

    def attend(
        self, x: torch.Tensor, rows: LayerRows, plan: Plan, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        n, n_rotated, size = len(x), self.n_heads + self.n_kv_heads, self.head_size
        qkv = self.qkv(rms_norm(x, *self.norm_before), plan.adapters)
        heads = qkv[:, : n_rotated * size].view(n, n_rotated, size)
        if self.head_norms is not None:
            heads[:, : self.n_heads] = rms_norm(heads[:, : self.n_heads], *self.head_norms[0])
            heads[:, self.n_heads :] = rms_norm(heads[:, self.n_heads :], *self.head_norms[1])
        halves = heads.view(n, n_rotated, 2, size // 2)
        swapped = halves.flip(2)  # a copy: the next line overwrites halves
        halves.mul_(cos).addcmul_(swapped, sin)
        # Keys and values lie side by side in the product as in the arena: one write a layer.
        rows.rows.index_copy_(0, plan.index, qkv[:, self.n_heads * size :])
        return attend(heads[:, : self.n_heads], rows, plan, self.scale, self.window)

    def feed(self, x: torch.Tensor, adapters: AdapterRows | None) -> torch.Tensor:
        inner = self.gate_up(rms_norm(x, *self.norm_after), adapters)
        return self.down(silu(inner[:, : self.n_inner]).mul_(inner[:, self.n_inner :]), adapters)

    def adaptable(self, prefix: str) -> Layers:
        """Its matrices, for adapters.

        Args:
            prefix: of the layer's name in the model, with a dot at the end.
        """
        found: dict[str, tuple[LoraLayer, int]] = {}
        for names, product in (
            (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), self.qkv),
            (("self_attn.o_proj",), self.out),
            (("mlp.gate_proj", "mlp.up_proj"), self.gate_up),
            (("mlp.down_proj",), self.down),
        ):
            found |= joined(prefix, product.lora, dict(zip(names, product.widths, strict=True)))
        return found


class LlamaLoop:
    """Computes a step's logits from a loaded transformers model of the family.

    Args:
        model: a causal language model for which ``follows`` holds; its linear layers become views of joined weights.
    """

    def __init__(self, model: Any) -> None:
        inner = model.model
        self.embedding = inner.embed_tokens.weight.detach()
        self.rotary = inner.rotary_emb
        self.layers = [_Layer(layer) for layer in inner.layers]
        self.norm = _norm(inner.norm)
        is_tied = model.lm_head.weight.data_ptr() == self.embedding.data_ptr()
        self.head = Projection([model.lm_head], keeps_layout=is_tied)
        self._is_tied = is_tied

    @staticmethod
    def follows(model: Any) -> bool:
        """Whether a model is built of exactly the parts this loop knows, on one device, with plain weights."""
        inner = getattr(model, "model", None)
        if model.config.model_type not in FAMILY or inner is None or not hasattr(inner, "layers"):
            return False
        if len({(p.device, p.dtype) for p in model.parameters()}) != 1 or getattr(model, "hf_quantizer", None):
            return False
        if any(hasattr(p, "device_mesh") for p in model.parameters()):
            return False  # a part of each tensor is here, and only the model's own modules know what to add up
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        if any(type(m) is not torch.nn.Linear or m._forward_hooks or m._forward_pre_hooks for m in linears):
            return False
        return all(_is_known(layer) for layer in inner.layers)

    def shapes(self) -> list[LayerShape]:
        """What each layer keeps of a token."""
        dtype, device = self.embedding.dtype, self.embedding.device
        return [
            LayerShape(n_heads=x.n_kv_heads, key_size=x.head_size, value_size=x.head_size, dtype=dtype, device=device)
            for x in self.layers
        ]

    def adaptable(self) -> Layers:
        """What adapters can change."""
        found: dict[str, tuple[LoraLayer, int]] = {}
        for number, layer in enumerate(self.layers):
            found |= layer.adaptable(f"model.layers.{number}.")
        return found

    def forward(self, plan: Plan, rows: list[LayerRows]) -> torch.Tensor:
        """Write the step's keys and values and return the logits [sum of n_logits, vocab_size]."""
        x = embedding(plan.ids, self.embedding)
        cos, sin = self._rotation(x, plan.positions)
        last, adapters = len(self.layers) - 1, plan.adapters
        for number, (layer, layer_rows) in enumerate(zip(self.layers, rows, strict=True)):
            attended = layer.attend(x, layer_rows, plan, cos, sin)
            if number == last:  # from here on only the wanted rows matter
                attended, x = attended.index_select(0, plan.logit_rows), x.index_select(0, plan.logit_rows)
                adapters = plan.logit_adapters
            x = x.add_(layer.out(attended, adapters))
            x = x.add_(layer.feed(x, adapters))
        return self.head(rms_norm(x, *self.norm))

    def pack(self) -> None:
        """Lay the weights out for the processor's matrix products; the model's own forward ends to work.

        A head that shares the embedding's memory gets a copy: it is a third of a small model's work.
        """
        if self.embedding.device.type != "cpu":
            return
        if self._is_tied and self.embedding.dtype == torch.float32:
            self.head.weight = self.embedding.t().contiguous().t()
        if can_pack():
            for layer in self.layers:
                for projection in (layer.qkv, layer.out, layer.gate_up, layer.down):
                    projection.pack()
            self.head.pack()

    def _rotation(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines, and sines whose first half is negated: both [n_rows, 1, 2, head_size / 2]."""
        cos, sin = self.rotary(x[None], positions[None])
        cos, sin = (part[0].unflatten(-1, (2, -1))[:, None] for part in (cos, sin))
        return cos, torch.stack([-sin[:, :, 0], sin[:, :, 1]], dim=2)


def _norm(module: Any) -> tuple[tuple[int, ...], torch.Tensor, float]:
    """The arguments of rms_norm that follow x."""
    weight = module.weight.detach()
    return tuple(weight.shape), weight, float(module.variance_epsilon)


def _window(attention: Any) -> int:
    """Most tokens a row attends to, 0 for all: said by the layer where layers differ (Qwen2), else by the config."""
    owner = attention if hasattr(attention, "sliding_window") else attention.config
    return int(getattr(owner, "sliding_window", None) or 0)


def _is_known(layer: Any) -> bool:
    parts = {name for name, _ in layer.named_children()}
    if parts != _LAYER_PARTS:
        return False
    attention = {name for name, _ in layer.self_attn.named_children()}
    mlp = {name for name, module in layer.mlp.named_children() if isinstance(module, torch.nn.Linear)}
    x = torch.linspace(-2, 2, 5)
    return (
        attention in (_ATTENTION_PARTS, _ATTENTION_PARTS | _HEAD_NORMS)
        and mlp == _MLP_PARTS
        and torch.allclose(layer.mlp.act_fn(x), silu(x))
        and len({layer.self_attn.k_proj.out_features, layer.self_attn.v_proj.out_features}) == 1
        and _biases_agree(layer.self_attn, ("q_proj", "k_proj", "v_proj"))
        and _biases_agree(layer.mlp, ("gate_proj", "up_proj"))
    )


def _biases_agree(module: Any, names: tuple[str, ...]) -> bool:
    """Joined layers have all a bias or none."""
    return len({getattr(module, name).bias is None for name in names}) == 1
