# SPDX-License-Identifier: Apache-2.0
"""Weights of which no rank can read its own part from a file: random ones, and those that an adapter is merged into."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from lmi.api import ModelArtifacts, Progress
from lmi_hf.engine import load_pretrained

_SEED = 0
_OF_WHOLE = ("config", "dtype", "trust_remote_code", "use_safetensors")
_OF_PART = ("config", "dtype", "distributed_config", "device_map")


def random_model(arguments: dict[str, Any], progress: Progress) -> Any:
    """A causal language model with weights as training begins with; no file is read, and all ranks have the same.

    Args:
        arguments: of transformers' ``from_pretrained``.
        progress: told the stages.
    """
    import torch
    import transformers

    progress("make random weights")
    with torch.device("meta"):  # only its class is wanted
        any_class: Any = transformers.AutoModelForCausalLM
        kind = type(any_class.from_config(arguments["config"], trust_remote_code=arguments["trust_remote_code"]))
    torch.manual_seed(_SEED)
    return _filled(kind, {}, arguments)


def merged_model(artifacts: ModelArtifacts, arguments: dict[str, Any], progress: Progress) -> Any:
    """This rank's part of a base model with its adapter merged into it.

    Each rank has the whole model in the host's memory for a while: an adapter's matrices are not split as those of the
    base are, and PEFT merges whole ones.

    Args:
        artifacts: the adapter.
        arguments: of transformers' ``from_pretrained``, for a part.
        progress: told the stages.
    """
    whole_arguments = {name: value for name, value in arguments.items() if name in _OF_WHOLE}
    whole = load_pretrained(artifacts, whole_arguments, progress, is_quantized=False)
    progress("split over ranks")
    return _filled(type(whole), whole.state_dict(), arguments)


def _filled(kind: Any, weights: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """A model of a class, in evaluation mode; what is not among the weights is drawn."""
    with _without_report():
        model = kind.from_pretrained(
            None, state_dict=weights, **{name: value for name, value in arguments.items() if name in _OF_PART}
        )
    model.train(False)
    model.requires_grad_(False)
    return model


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from listing the weights that are meant to be missing, and torch from doubting the draw."""
    import logging

    from transformers.utils import logging as reports

    level = reports.get_verbosity()
    reports.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="DTensor random operators")
            yield
    finally:
        reports.set_verbosity(level)
