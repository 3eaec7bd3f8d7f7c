# SPDX-License-Identifier: Apache-2.0
"""A model with the head of its task: loaded whole or refused, and called with ids."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from lmi.api import AnswererLimits, EngineLoadError, Inputs, ModelArtifacts, Progress, Task
from lmi_hf.engine import context_limit
from lmi_hf.stepping.packed import out_of_memory_named
from lmi_hf.tasks.checks import HEADS

_MANY_SHOWN = 4
_NO_LIMIT_TOKENS = 1 << 20
"""What tokenizers say that know no limit is larger."""


def load_head(artifacts: ModelArtifacts, arguments: dict[str, Any], task: Task, progress: Progress) -> Any:
    """A model of the class that a task needs, in evaluation mode.

    Args:
        artifacts: the model.
        arguments: of transformers' ``from_pretrained``.
        task: what it is to do.
        progress: told the stage.
    Raises:
        EngineLoadError: the checkpoint lacks weights of that class, whose answers would be chance.
    """
    progress("load weights")
    kind = getattr(transformers, HEADS[task].auto_class)
    model, found = kind.from_pretrained(artifacts.folder, output_loading_info=True, **arguments)
    missing = sorted(found["missing_keys"])
    if missing:
        n_more = len(missing) - _MANY_SHOWN
        shown = ", ".join(missing[:_MANY_SHOWN]) + (f" and {n_more} more" if n_more > 0 else "")
        raise EngineLoadError(
            "engine.weights-missing",
            f"{type(model).__name__} has weights that {artifacts.folder} lacks: {shown}",
            f"Use a checkpoint that was trained for it, or set option.task to what this one was made for "
            f"({', '.join(artifacts.architectures) or artifacts.model_type})",
        )
    model.config.use_cache = False  # a decoder with labels would keep one for nobody
    model.train(False)
    model.requires_grad_(False)
    return model


def load_tokenizer(artifacts: ModelArtifacts, *, trust_remote_code: bool) -> Any:
    """The model's tokenizer in transformers."""
    return transformers.AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call,unused-ignore]
        artifacts.folder, trust_remote_code=trust_remote_code
    )


def limits_of(model: Any, tokenizer: Any, most_tokens: int) -> AnswererLimits:
    """What a model takes.

    Args:
        model: it.
        tokenizer: its own, which may know of a smaller limit; None where nobody asks it.
        most_tokens: what the user allows; 0 for the model's own limit.
    """
    known = [most_tokens, _positions(model) or context_limit(model), getattr(tokenizer, "model_max_length", 0)]
    limits = [each for each in known if 0 < each < _NO_LIMIT_TOKENS]
    embedding = model.get_input_embeddings()
    return AnswererLimits(max_context_tokens=min(limits, default=512), vocab_size=int(embedding.weight.shape[0]))


def _positions(model: Any) -> int:
    """Tokens that a table of positions has rows for; 0 where there is none. RoBERTa's begins behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            n_before = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - n_before
    return 0


def called(model: Any, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """What a model makes of ids: its logits, or those of starts and ends; float32, on the CPU.

    Args:
        model: with a head.
        inputs: as ``Answerer.compute`` has them.
    Raises:
        OutOfMemoryError: they do not fit.
    """
    device = next(model.parameters()).device
    with out_of_memory_named(), torch.inference_mode():
        output = model(**{name: torch.tensor(rows, device=device) for name, rows in inputs.items()})
        found = (output.start_logits, output.end_logits) if "start_logits" in output else (output.logits,)
        return tuple(each.float().cpu() for each in found)
