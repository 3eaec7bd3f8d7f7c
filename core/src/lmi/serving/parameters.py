# SPDX-License-Identifier: Apache-2.0
"""``parameters`` of a request in LMI's schema, and what they mean for the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmi.api.errors import RequestError
from lmi.api.requests import Constraint, SamplingParams
from lmi.serving.constraints import ChoiceTexts, Grammar, GrammarText, Regex, SchemaText, choice

LARGEST = 2**31 - 1
"""Bound of ids and counts: engines keep them in 32 bits, and no vocabulary or context comes near."""

MOST_SEQUENCES = 32
"""Most candidates or beams of one request."""

TokenId = Annotated[int, Field(ge=0, le=LARGEST)]
TokenIdKey = Annotated[int, Field(ge=0, le=LARGEST, strict=False)]  # JSON has no other keys than texts
Word = Annotated[str, Field(min_length=1, max_length=512)]


_ASKED_AS = {
    "max_tokens": ("max_new_tokens",),
    "min_tokens": ("min_new_tokens",),
    "ignore_eos": ("ignore_eos_token",),
    "n_logprobs": ("top_n_tokens", "best_of", "num_beams"),
    "n_prompt_logprobs": ("prompt_logprobs", "decoder_input_details"),
    "bad_token_ids": ("bad_words",),
    "bad_word_ids": ("bad_words",),
    "constraint": ("grammar", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
}
"""Field of SamplingParams -> parameters that ask for it."""

_OF_BEAMS = ("length_penalty", "early_stopping")
_CHECKED = frozenset(
    {"n", "best_of", "num_beams", "spaces_between_special_tokens", *_OF_BEAMS, *_ASKED_AS["constraint"]}
)
"""Parameters that may be wrong although each is within its bounds."""

_MOST_SHOWN_CHARS = 80


class Parameters(BaseModel):
    """``parameters`` of a request. Bounds are those of SamplingParams; None means "not asked for"."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    max_new_tokens: int = Field(30, ge=1)
    min_new_tokens: int = Field(0, ge=0, le=LARGEST)
    truncate: int | None = Field(None, ge=1)
    do_sample: bool | None = None
    seed: int | None = Field(None, ge=0, lt=2**64)
    temperature: float | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=-1, le=LARGEST)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[TokenIdKey, float] = Field(default_factory=dict, max_length=1024)
    bad_words: list[Word] = Field(default_factory=list, alias="bad_sequences", max_length=128)
    n: int = Field(1, ge=1, le=MOST_SEQUENCES)
    best_of: int | None = Field(None, ge=1, le=MOST_SEQUENCES)
    num_beams: int = Field(1, ge=1, le=MOST_SEQUENCES)
    length_penalty: float = Field(1.0, ge=-10, le=10)
    early_stopping: Literal[True, False, "never"] = False
    grammar: Grammar | None = None
    guided_json: SchemaText | None = None
    guided_regex: Regex | None = None
    guided_choice: ChoiceTexts | None = None
    guided_grammar: GrammarText | None = None
    stop_sequences: list[Word] = Field(default_factory=list, alias="stop", max_length=32)
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=128)
    ignore_eos_token: bool = Field(False, alias="ignore_eos")
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int | None = Field(None, alias="logprobs", ge=0, le=100)
    prompt_logprobs: int | None = Field(None, ge=0, le=100)
    return_full_text: bool = False

    def check(self) -> None:
        """Refuse what each parameter allows and all of them together do not.

        Raises:
            RequestError: naming them.
        """
        if self.model_fields_set.isdisjoint(_CHECKED):
            return
        if not self.spaces_between_special_tokens:
            raise RequestError(
                "request.unsupported",
                "spaces_between_special_tokens=False was asked, but tokens are joined as the model's tokenizer joins "
                "them",
                "Leave it out",
            )
        if not self.is_single:
            self._check_sequences()
        if not self.is_beam_search:
            self._check_no_beams()
        constraints = [name for name in _ASKED_AS["constraint"] if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise RequestError("request.invalid", f"{' and '.join(constraints)} exclude each other", "Keep one of them")

    def _check_sequences(self) -> None:
        limit, most = ("num_beams", self.num_beams) if self.is_beam_search else ("best_of", self.n_candidates)
        if self.is_beam_search and self.best_of not in (None, self.num_beams):
            raise RequestError(
                "request.invalid",
                f"best_of={self.best_of} and num_beams={self.num_beams} exclude each other",
                "Beams are the candidates; leave out best_of",
            )
        if self.n > most:
            raise RequestError(
                "request.invalid",
                f"n={self.n} answers of {limit}={most}: there are not as many",
                f"Raise {limit} to {self.n} at least, or lower n",
            )

    def _check_no_beams(self) -> None:
        plain = type(self).model_fields
        names = [name for name in _OF_BEAMS if getattr(self, name) != plain[name].default]
        if names:
            asked = " and ".join(f"{name}={getattr(self, name)!r}" for name in names)
            raise RequestError(
                "request.invalid",
                f"{asked}: of use in a beam search only, and num_beams is {self.num_beams}",
                "Set num_beams to 2 or more, or leave it out",
            )

    @property
    def is_single(self) -> bool:
        """Whether one sequence gives the one answer."""
        return self.n == 1 and self.num_beams == 1 and (self.best_of is None or self.best_of == 1)

    @property
    def asked_sequences(self) -> str:
        """What asks for several sequences, with its value."""
        names = [name for name in ("num_beams", "best_of", "n") if name in self.model_fields_set]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    @property
    def is_beam_search(self) -> bool:
        return self.num_beams > 1

    @property
    def n_candidates(self) -> int:
        """Sequences of which the best are answers."""
        return self.n if self.best_of is None else self.best_of

    @property
    def wants_details(self) -> bool:
        return (
            self.details
            or self.decoder_input_details
            or self.top_n_tokens is not None
            or self.prompt_logprobs is not None
        )

    @property
    def needs_logprobs(self) -> bool:
        """Whether log probabilities are needed for something else than to be shown where there are any."""
        return self.top_n_tokens is not None or self.is_beam_search or self.n_candidates > self.n

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: as ``do_sample`` says, else when anything that shapes a draw is set."""
        if self.do_sample is not None:
            return self.do_sample and self.temperature != 0
        shaping = (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p)
        return self.temperature != 0 and any(value is not None for value in shaping)

    def asked_as(self, field: str, value: Any) -> str:
        """How the caller asked for a field of SamplingParams."""
        if field == "temperature" and self.temperature is None:
            return "do_sample=True" if self.do_sample else "drawing tokens"
        names = _ASKED_AS.get(field, (field,))
        name = next((each for each in names if each in self.model_fields_set), names[0])
        shown = repr(getattr(self, name, value))
        return f"{name}={shown if len(shown) <= _MOST_SHOWN_CHARS else shown[: _MOST_SHOWN_CHARS - 3] + '...'}"

    @property
    def constraint(self) -> Constraint | None:
        if self.grammar is not None:
            return self.grammar.constraint
        if self.guided_json is not None:
            return Constraint(kind="json_schema", source=self.guided_json)
        if self.guided_regex is not None:
            return Constraint(kind="regex", source=self.guided_regex)
        if self.guided_choice is not None:
            return choice(self.guided_choice)
        if self.guided_grammar is not None:
            return Constraint(kind="grammar", source=self.guided_grammar)
        return None

    def sampling(self, *, shows_logprobs: bool) -> SamplingParams:
        """What the engine is asked for one sequence.

        Args:
            shows_logprobs: the answer shows log probabilities and the backend has them.
        """
        n_logprobs = self.top_n_tokens if self.top_n_tokens is not None else 0
        n_prompt_logprobs = 0 if self.decoder_input_details else None
        draw: dict[str, Any] = {}
        if self.samples:
            draw = {
                "temperature": 1.0 if self.temperature is None else self.temperature,
                "top_k": max(0, self.top_k or 0),
                "top_p": 1.0 if self.top_p is None else self.top_p,
                "min_p": self.min_p or 0.0,
                "typical_p": 1.0 if self.typical_p is None else self.typical_p,
                "seed": self.seed,
            }
        return SamplingParams(
            max_tokens=self.max_new_tokens,
            min_tokens=self.min_new_tokens,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos_token,
            n_logprobs=n_logprobs if shows_logprobs or self.needs_logprobs else None,
            n_prompt_logprobs=n_prompt_logprobs if self.prompt_logprobs is None else self.prompt_logprobs,
            constraint=self.constraint,
            **draw,
        )
