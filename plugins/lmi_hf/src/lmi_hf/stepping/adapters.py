# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters as PEFT reads them, beside a model that is stepped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lmi.api import LmiError, RequestError, StepBatch, StepOutput, Stepper
from lmi_hf.stepping.lora import Layers
from lmi_hf.stepping.packed import out_of_memory_named

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


class AdapterStepper(Stepper):
    """A stepper whose model has LoRA adapters, which come and go (``StepsAdapters``).

    Args:
        inner: steps the model, and adds to each layer's product what the entries' adapters add.
        model: what it steps; its classes and sizes are read, not its weights.
        layers: what adapters can change.
    """

    def __init__(self, inner: Stepper, model: Any, layers: Layers) -> None:
        self._inner = inner
        self._layers = layers
        self._kind, self._config = type(model), model.config
        self.limits = inner.limits

    def step(self, batch: StepBatch) -> StepOutput:
        return self._inner.step(batch)

    def truncate(self, slot: int, n_tokens: int) -> None:
        self._inner.truncate(slot, n_tokens)

    def release(self, slot: int) -> None:
        self._inner.release(slot)

    def close(self) -> None:
        self._inner.close()

    def load_adapter(self, name: str, path: str) -> None:
        """See ``StepsAdapters``."""
        with out_of_memory_named():
            matrices = self._read(name, path)
            try:
                for module, found in matrices.items():
                    layer, first_column = self._layers[module]
                    layer.put(name, first_column, found.down, found.up)
            except BaseException as error:
                self.unload_adapter(name)
                if isinstance(error, ValueError):
                    raise RequestError("adapter.not-loadable", _said(name, path, f"of {module}, {error}")) from error
                raise

    def unload_adapter(self, name: str) -> None:
        """See ``StepsAdapters``."""
        for layer, _ in self._layers.values():
            layer.drop(name)

    def _read(self, name: str, path: str) -> dict[str, _Matrices]:
        """An adapter's matrices, by the module they belong to."""
        try:
            found = dict(_read_lora(path, _skeleton(self._kind, self._config)))
        except (LmiError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # PEFT has no class of its own for what it cannot read
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RequestError("adapter.not-loadable", _said(name, path, reason)) from error
        strange = [module for module in found if module not in self._layers]
        if strange or not found:
            reason = (
                f"it changes {strange[0]}, which takes none here" if strange else "it changes no layer of the model"
            )
            raise RequestError("adapter.not-loadable", _said(name, path, reason), "Merge it into the model")
        return found


@dataclass(frozen=True, kw_only=True)
class _Matrices:
    """What an adapter adds to a module: x @ down @ up, down [in, rank], up [rank, out], scaled."""

    down: torch.Tensor
    up: torch.Tensor


def _read_lora(path: str, skeleton: Any) -> Iterator[tuple[str, _Matrices]]:
    """Let PEFT read an adapter: names, ranks, scales, and all the forms that its configuration can have.

    Raises:
        ValueError: it is more than plain LoRA, or its matrices are not all there.
    """
    import peft
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    # Weights come as they are stored; they are made the layer's type later.
    adapted: Any = peft.PeftModel.from_pretrained(
        skeleton, path, torch_device="cpu", autocast_adapter_dtype=False, low_cpu_mem_usage=True
    )
    (adapter,) = adapted.peft_config
    for name, module in adapted.get_base_model().named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not (isinstance(module, LoraLayer) and _is_plain(module, adapter)):
            raise ValueError(f"it has more than plain LoRA for {name}")
        sides: tuple[Any, Any] = (module.lora_A[adapter], module.lora_B[adapter])
        down, up = (side.weight.detach() for side in sides)
        if down.is_meta or up.is_meta:
            raise ValueError(f"it has no weights for {name}")
        yield name, _Matrices(down=down.t(), up=up.t() * module.scaling[adapter])


def _is_plain(module: LoraLayer, adapter: str) -> bool:
    has_matrices = set(module.lora_A) == set(module.lora_B) == {adapter}
    return has_matrices and adapter not in module.lora_variant and not module.lora_bias.get(adapter)


def _skeleton(kind: type[Any], config: Any) -> Any:
    """A model of some class and sizes, whose weights take no memory."""
    with torch.device("meta"):
        skeleton = kind(config)
    for module in skeleton.modules():
        for name, weight in module.named_parameters(recurse=False):
            # Not "meta": PEFT puts an adapter's weights beside the weights of its layer.
            hollow = torch.empty(1).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(hollow, requires_grad=False))
    return skeleton


def _said(name: str, path: str, reason: str) -> str:
    return f"transformers cannot load adapter {name!r} from {path}: {reason}"
