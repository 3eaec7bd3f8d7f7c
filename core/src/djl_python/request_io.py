# SPDX-License-Identifier: Apache-2.0
"""What a custom output formatter gets: the request and the tokens so far.

Source: the custom output formatter schema of DJL Serving 0.28.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Token:
    """One token of the output.

    Args:
        id: token id; -1 where an answer ended without one.
        text: the text it added.
        log_prob: natural logarithm; None where the backend gives none.
        special_token: whether it has no text of its own.
    """

    def __init__(self, id: int, text: str, log_prob: float | None = None, special_token: bool | None = None) -> None:
        self.id = id
        self.text = text
        self.log_prob = log_prob
        self.special_token = special_token

    def as_dict(self) -> dict[str, Any]:
        """The token as LMI's JSON has it."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "log_prob": self.log_prob}
        return shown | {"special_token": True} if self.special_token else shown

    def as_tgi_dict(self) -> dict[str, Any]:
        """The token as TGI's JSON has it."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "logprob": self.log_prob}
        return shown | {"special": True} if self.special_token else shown


@dataclass
class Sequence:
    """One generated text, and how far a formatter has read it."""

    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)
    cumulative_log_prob: float = 0.0
    finish_reason: str | None = None
    stop_reason: str | None = None
    _n_read: int = 0
    _last_index: int | None = None

    def set_next_token(self, token: Token, is_last_token: bool = False) -> None:
        self.tokens.append(token)
        self.cumulative_log_prob += token.log_prob or 0.0
        if is_last_token:
            self._last_index = len(self.tokens) - 1

    def has_next_token(self) -> bool:
        return self._n_read < len(self.tokens)

    def get_next_token(self) -> tuple[Token | None, bool, bool]:
        """The next token not read yet, whether it is the first and whether it is the last; None when all are read."""
        if not self.has_next_token():
            return None, False, False
        index, self._n_read = self._n_read, self._n_read + 1
        return self.tokens[index], index == 0, index == self._last_index


@dataclass
class RequestInput:
    """A request: its id and parameters."""

    request_id: Any
    output_formatter: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    server_parameters: dict[str, Any] = field(default_factory=dict)
    tgi_compat: bool = False


@dataclass
class TextInput(RequestInput):
    """A request for text: the prompt and its ids."""

    input_text: str | None = None
    input_ids: list[int] = field(default_factory=list)
    adapters: Any = None
    tokenizer: Any = None

    def prompt_tokens_length(self) -> int:
        return len(self.input_ids)


@dataclass
class RequestOutput:
    """An answer while it grows; ``finished`` with its last token."""

    request_id: Any
    input: Any
    finished: bool = False


@dataclass
class TextGenerationOutput(RequestOutput):
    """Generated text; ``sequences[best_sequence_index]`` is the answer."""

    sequences: dict[int, Sequence] = field(default_factory=lambda: {0: Sequence()})
    best_sequence_index: int = 0
    prompt_tokens_details: list[Token] = field(default_factory=list)
    other_sequences_indices: list[int] = field(default_factory=list)

    def set_next_token(
        self, token: Token, sequence_index: int = 0, is_last_token: bool = False, finish_reason: str | None = None
    ) -> None:
        sequence = self.sequences.setdefault(sequence_index, Sequence())
        sequence.set_next_token(token, is_last_token)
        if finish_reason:
            sequence.finish_reason = finish_reason

    def get_tokens_as_dict(self, sequence_index: int = 0) -> list[dict[str, Any]]:
        return [self._shown(token) for token in self.sequences[sequence_index].tokens]

    def get_prompt_tokens_as_dict(self) -> list[dict[str, Any]]:
        return [self._shown(token) for token in self.prompt_tokens_details]

    def _shown(self, token: Token) -> dict[str, Any]:
        return token.as_tgi_dict() if self.input.tgi_compat else token.as_dict()
