# SPDX-License-Identifier: Apache-2.0
"""Weights and activations in 8 bits, by torchao, on a model that DeepSpeed may have split.

DeepSpeed has neither method. SmoothQuant moves the difficulty of activations with outliers into the weights, by a
factor a channel that a calibration finds (Xiao et al. 2022, arXiv:2211.10438); each rank finds those of its own part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lmi.api import EngineLoadError, Progress
from lmi_deepspeed.calibration import calibration_ids
from lmi_deepspeed.config import Quantization

log = logging.getLogger(__name__)

DEFAULT_ALPHA = 0.5
"""Source: the paper's value for OPT and BLOOM."""


class SummedLinear(nn.Module):
    """A linear layer whose input is split over ranks: each rank's product is summed over all.

    Args:
        linear: this rank's part, without bias.
        bias: added once, to the sum.
        group: DeepSpeed's group of the ranks.
    """

    def __init__(self, linear: nn.Linear, bias: nn.Parameter | None, group: Any) -> None:
        super().__init__()
        self.linear = linear
        self.bias = bias
        self._group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in of this rank]: [..., out]."""
        from deepspeed import comm  # type: ignore[import-not-found,import-untyped,unused-ignore]

        product: torch.Tensor = self.linear(x)
        comm.inference_all_reduce(product, group=self._group)
        return product if self.bias is None else product + self.bias


def quantize(model: Any, method: Quantization, alpha: float | None, folder: str, progress: Progress) -> None:
    """Replace the linear layers of a model by 8-bit ones, but for the one that gives the logits.

    Args:
        model: of transformers, in evaluation mode, on its device, split or not.
        method: how. Activations are 8-bit numbers either way, with a scale a token.
        alpha: with smoothquant, what part of the difficulty moves to the weights; None takes DEFAULT_ALPHA.
        folder: of the model, for its tokenizer.
        progress: told the stages.
    Raises:
        EngineLoadError: torchao is not installed, or the model has no such layers.
    """
    quantize_, base = _torchao()
    _replace(model, _plain)
    head = model.get_output_embeddings()
    inner = {id(module) for module in (head.modules() if head is not None else ())}
    n_layers = sum(isinstance(each, nn.Linear) and id(each) not in inner for each in model.modules())
    if not n_layers:
        raise EngineLoadError(
            "engine.not-quantizable",
            f"{type(model).__name__} has no linear layers to quantize",
            "Remove option.quantize",
        )
    progress("quantize")
    if method == "smoothquant":
        _smooth(model, inner, quantize_, base, DEFAULT_ALPHA if alpha is None else alpha, folder)
    else:
        quantize_(model, base, filter_fn=lambda module, _: isinstance(module, nn.Linear) and id(module) not in inner)
    log.info("%s: %d linear layers in 8 bits", method, n_layers)


def _torchao() -> tuple[Callable[..., None], Any]:
    """torchao's ``quantize_``, and its configuration of 8-bit weights (a scale a row) and activations (one a token)."""
    try:
        from torchao.quantization import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            Int8DynamicActivationInt8WeightConfig,
            quantize_,
        )
    except ImportError as error:
        raise EngineLoadError(
            "engine.not-installed", f"option.quantize needs torchao: {error}", "pip install 'lmi-deepspeed[quantize]'"
        ) from error
    return quantize_, Int8DynamicActivationInt8WeightConfig(version=2)


def _smooth(model: Any, left: set[int], quantize_: Callable[..., None], base: Any, alpha: float, folder: str) -> None:
    from torchao.prototype.smoothquant import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        SmoothQuantConfig,
    )
    from torchao.prototype.smoothquant.core import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        SmoothQuantObservedLinear,
    )

    watching = SmoothQuantConfig(base_config=base, step="prepare", alpha=alpha, use_running_absmax=True)
    quantize_(model, watching, filter_fn=lambda each, _: isinstance(each, nn.Linear) and id(each) not in left)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for ids in calibration_ids(folder, model.config.get_text_config().vocab_size):
            model(input_ids=torch.tensor([ids], device=device), use_cache=False)
    done = SmoothQuantConfig(base_config=base, step="convert", alpha=alpha)
    quantize_(model, done, filter_fn=lambda each, _: isinstance(each, SmoothQuantObservedLinear))


def _replace(module: Any, make: Callable[[Any], nn.Module | None]) -> None:
    """Put what ``make`` gives in place of a module's descendants; None leaves one as it is."""
    for name, child in list(module.named_children()):
        made = make(child)
        if made is not None:
            setattr(module, name, made)
        else:
            _replace(child, make)


def _plain(module: Any) -> nn.Module | None:
    """A layer as torch's own linear one: DeepSpeed's parts of linear layers, and GPT-2's transposed ones."""
    from deepspeed.module_inject import layers  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return _linear(module.weight.t().contiguous(), module.bias)
    if type(module) is layers.LinearAllreduce:
        return SummedLinear(_linear(module.weight, None), module.bias, module.mp_group)
    is_column = isinstance(module, layers.LinearLayer) and not isinstance(module, layers.VocabParallelLinear)
    return _linear(module.weight, module.bias) if is_column and not module.gather_output else None


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made.train(False)
