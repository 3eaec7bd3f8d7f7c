# SPDX-License-Identifier: Apache-2.0
"""Labels of words, and words for masks: transformers' pipelines around a model that may be split over ranks."""

from __future__ import annotations

from typing import Any

import transformers

from lmi.api import Compute, EngineLoadError, Inputs, RequestError
from lmi_hf.tasks.answerers import TextAnswerer


class WordLabeler(TextAnswerer):
    """Labels of words: names, places, parts of speech."""

    def __init__(self, model: Any, tokenizer: Any, most_tokens: int) -> None:
        super().__init__(model, tokenizer, most_tokens)
        self._pipeline = _pipeline(transformers.TokenClassificationPipeline, model, tokenizer)

    def answer(self, name: str, given: Any, parameters: dict[str, Any], compute: Compute) -> Any:
        before, _, after = self._pipeline._sanitize_parameters(**parameters)
        if parameters["stride"] is None:
            n_tokens = len(self.tokenizer(given, verbose=False)["input_ids"])
            self.refuse_too_long(name, n_tokens, ", or send stride and an aggregation_strategy")
        else:
            self._refuse_wide_stride(parameters["stride"])
        outputs = []
        for chunk in self._pipeline.preprocess(given, **before):
            (logits,) = compute(_arguments(self.tokenizer, chunk))
            outputs.append({"word_ids": None, "word_to_chars_map": None, **chunk, "logits": logits})
        return self._pipeline.postprocess(outputs, **after)

    def _refuse_wide_stride(self, stride: int) -> None:
        room = self.limits.max_context_tokens - self.tokenizer.num_special_tokens_to_add()
        if stride >= room:
            raise RequestError(
                "request.invalid",
                f"stride={stride}; a window has {room} tokens of text, and the next one begins so many before its end",
                f"Send a stride below {room}",
            )


class MaskFiller(TextAnswerer):
    """The likeliest words for the masks of a text."""

    def __init__(self, model: Any, tokenizer: Any, most_tokens: int) -> None:
        super().__init__(model, tokenizer, most_tokens)
        if tokenizer.mask_token_id is None:
            raise EngineLoadError(
                "engine.no-mask",
                "the model's tokenizer has no mask_token, which texts show the gap with",
                "Add it to tokenizer_config.json, or use another model",
            )
        self._pipeline = _pipeline(transformers.FillMaskPipeline, model, tokenizer)

    def answer(self, name: str, given: Any, parameters: dict[str, Any], compute: Compute) -> Any:
        read = self.tokenizer(given, return_tensors="pt", verbose=False)
        ids = read["input_ids"][0]
        self.refuse_too_long(name, len(ids))
        if not int((ids == self.tokenizer.mask_token_id).sum()):
            mask = self.tokenizer.mask_token
            raise RequestError("request.no-mask", f"{name} has no {mask}", f"Write {mask} where a word is missing")
        targets = self._targets(parameters["targets"])
        (logits,) = compute(_arguments(self.tokenizer, read))
        top_k = min(parameters["top_k"], logits.shape[-1])
        outputs = {"logits": logits, "input_ids": read["input_ids"]}
        return self._pipeline.postprocess(outputs, top_k=top_k, target_ids=targets)

    def _targets(self, targets: list[str] | None) -> Any:
        if targets is None:
            return None
        try:
            return self._pipeline.get_target_ids(targets)
        except ValueError:
            said = f"targets={targets}: none of them has a token"
            raise RequestError("request.invalid", said, "Send words") from None


def _pipeline(kind: Any, model: Any, tokenizer: Any) -> Any:
    """A pipeline that leaves the model where it is: by itself it takes the first device, which other ranks use, too."""
    is_placed = getattr(model, "hf_device_map", None) is not None  # by Accelerate, beside which no device may be said
    device = {} if is_placed else {"device": next(model.parameters()).device}
    return kind(model=model, tokenizer=tokenizer, **device)


def _arguments(tokenizer: Any, read: Any) -> Inputs:
    """What of a text that was read the model is called with."""
    return {name: read[name].tolist() for name in tokenizer.model_input_names if name in read}
