# SPDX-License-Identifier: Apache-2.0
"""Bodies of OpenAI's completions and chat completions, and what they ask for in LMI's words.

Source: OpenAI's API reference; parameters beyond it have the names of LMI's schema and of other servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from lmi.api.requests import Constraint
from lmi.serving.bodies import Part, complete, object_of
from lmi.serving.constraints import ChoiceTexts, GrammarText, Regex, SchemaText, StructuredOutputs, any_json
from lmi.serving.parameters import LARGEST, MOST_SEQUENCES, Parameters, TokenId, TokenIdKey, Word
from lmi.serving.tools.definitions import ToolChoice, Tools

N_PROMPTS = 128
"""Most prompts of one completion request."""

_MOST_ENTRIES = 1024
"""Of a table whose entries are judged."""

_NAMES = {
    "max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "stop": "stop_sequences",
    "ignore_eos": "ignore_eos_token",
}  # fmt: skip
"""Name here -> name in LMI's schema, where they differ."""

GUIDES = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Parameters that are a constraint on the answer."""

_SAME = (
    "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "logit_bias", "bad_words", "n", "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens",
    *GUIDES,
)  # fmt: skip


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _bounded(value: Any) -> Any:
    """A table of a few entries: each wrong one of millions would be told."""
    if isinstance(value, dict) and len(value) > _MOST_ENTRIES:
        raise ValueError(f"dictionary should have at most {_MOST_ENTRIES} items, not {len(value)}")
    return value


def _kind_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "lists of ids" if isinstance(first, list) else "ids" if isinstance(first, int | float) else "texts"


Biases = Annotated[dict[TokenIdKey, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_bounded)]
Ids = Annotated[list[TokenId], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(fail_fast=True), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Field(fail_fast=True), Tag("lists of ids")],
    Discriminator(_kind_of_prompt),
]
"""The field ``prompt``; what is wrong in it is told of the kind that it begins with."""


class StreamOptions(Part):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class NamedSchema(Part):
    """``json_schema`` of a response format; ``strict`` is always so."""

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())

    name: str = ""
    description: str | None = None
    content: SchemaText = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    """The form of an answer; ``value`` is the schema where a client of text-generation-inference sends one."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    value: SchemaText | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise complete("response_format needs json_schema with type='json_schema', and with no other")
        if self.value is not None and self.type != "json_object":
            raise complete("response_format takes value with type='json_object', and with no other")
        return self

    @property
    def constraint(self) -> Constraint | None:
        if self.type == "text":
            return None
        source = self.value if self.json_schema is None else self.json_schema.content
        return any_json() if source is None else Constraint(kind="json_schema", source=source)


class TextBody(BaseModel):
    """What every request for text takes; None is not asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Annotated[list[Word], Field(max_length=32, fail_fast=True), BeforeValidator(_listed)] | None = None
    stream: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases | None = None
    # Said of the caller or the service; they change no answer.
    user: str | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(_bounded)] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    # Of LMI, and of other servers.
    adapters: Annotated[list[str], Field(fail_fast=True), BeforeValidator(_listed)] | None = None
    min_tokens: int | None = Field(None, ge=0, le=LARGEST)
    top_k: int | None = Field(None, ge=-1, le=LARGEST)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    bad_words: Annotated[list[Word], Field(max_length=128, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    guided_json: SchemaText | None = None
    guided_regex: Regex | None = None
    guided_choice: ChoiceTexts | None = None
    guided_grammar: GrammarText | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="before")
    @classmethod
    def _asks(cls, data: Any) -> Any:
        """The fields that ask for something: clients write others as null, those that nobody knows here among them."""
        data = object_of(data)
        return {name: value for name, value in data.items() if value is not None} if None in data.values() else data

    @model_validator(mode="after")
    def _has_its_guide(self) -> TextBody:
        if self.structured_outputs is not None:
            if given := [name for name in GUIDES if getattr(self, name) is not None]:
                raise complete(f"structured_outputs and {' and '.join(given)} exclude each other: keep one of them")
            setattr(self, *self.structured_outputs.guide)
        return self


class Asked(TextBody):
    """What both kinds of completions take."""

    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_SEQUENCES)
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    store: bool | None = None  # nothing is, and there is no route to what would have been

    @model_validator(mode="after")
    def _streams_if_it_says_how(self) -> Asked:
        if self.stream_options is not None and not self.stream:
            raise complete("stream_options are of a stream, and stream is not true")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def parameters(self, *, draws: bool, **more: Any) -> Parameters:
        """The same in LMI's words; unlike there, tokens are drawn unless ``temperature`` is 0.

        Args:
            draws: whether the backend can; where it cannot, a request that says nothing gets the likeliest.
            more: further parameters of LMI's; None is not asked for.
        Raises:
            RequestError: they exclude each other.
        """
        given = {_NAMES.get(name, name): getattr(self, name) for name in (*_NAMES, *_SAME)}
        temperature = (1.0 if draws else 0.0) if self.temperature is None else self.temperature
        given |= {"do_sample": temperature > 0, "temperature": temperature, **more}
        if self.top_p == 0:  # nothing but the likeliest
            given |= {"temperature": 0.0, "top_p": None}
        if self.seed is not None:
            given["seed"] = self.seed % 2**64
        found = Parameters.model_validate({name: value for name, value in given.items() if value is not None})
        found.check()
        return found

    def asked_as(self, field: str, value: Any) -> str:
        """How the caller asked for a field of SamplingParams."""
        if field == "constraint" and self.response_format is not None:
            return f"response_format={self.response_format.type}"
        if field == "constraint" and self.structured_outputs is not None:
            return f"structured_outputs={self.structured_outputs.guide[0].removeprefix('guided_')}"
        if field == "n_logprobs":
            asking = ("top_logprobs", "logprobs", "best_of")
            name = next((each for each in asking if getattr(self, each, None)), asking[0])
            return f"{name}={getattr(self, name, value)!r}"
        name, sign, shown = self.parameters(draws=True).asked_as(field, value).partition("=")
        here = {lmi: own for own, lmi in _NAMES.items()}
        return f"{here.get(name, name)}{sign}{shown}"


class CompletionBody(Asked):
    """The body of ``POST /v1/completions``."""

    prompt: Prompt
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=1, le=MOST_SEQUENCES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: Literal[""] | None = None

    def asked_as(self, field: str, value: Any) -> str:
        return "echo=True" if field == "n_prompt_logprobs" else super().asked_as(field, value)

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each prompt, as a text or as ids."""
        given: Any = self.prompt
        is_one = isinstance(given, str) or (given and isinstance(given[0], int))
        return [given] if is_one else given

    @model_validator(mode="after")
    def _has_prompts(self) -> CompletionBody:
        n = len(self.prompts)
        if not 1 <= n <= N_PROMPTS or self.prompt == []:
            raise complete(f"prompt has {n if self.prompt else 0} texts; there must be 1 to {N_PROMPTS}")
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise complete("max_tokens=0 asks for the prompt alone, which is repeated with echo=true only")
        if self._schema is not None and (given := [name for name in GUIDES if getattr(self, name) is not None]):
            raise complete(f"response_format and {' and '.join(given)} exclude each other: keep one of them")
        return self

    @property
    def _schema(self) -> str | None:
        constraint = self.response_format.constraint if self.response_format is not None else None
        return None if constraint is None else constraint.source

    def parameters(self, *, draws: bool, **more: Any) -> Parameters:
        """See ``Asked``; a text follows its ``response_format`` from its beginning on."""
        return super().parameters(
            draws=draws, **more, **({} if self._schema is None else {"guided_json": self._schema})
        )


class ChatBody(Asked):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None  # of the answer: elsewhere it makes it faster, and nowhere another one
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    # Of other servers, for the template.
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # Of LMI: the messages of the session are put before these, and the session keeps these and the answer.
    keep_history: bool | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> ChatBody:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise complete(
                f"max_tokens={self.max_tokens} and max_completion_tokens={self.max_completion_tokens} are one thing: "
                "keep one of them"
            )
        if self.top_logprobs and not self.logprobs:
            raise complete("top_logprobs needs logprobs=true")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise complete("tool_choice needs tools")
        return self

    def asked_as(self, field: str, value: Any) -> str:
        if field == "max_tokens" and self.max_completion_tokens is not None:
            return f"max_completion_tokens={value}"
        return super().asked_as(field, value)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of an answer at most; None where nothing says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
