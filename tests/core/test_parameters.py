# SPDX-License-Identifier: Apache-2.0
"""What the parameters of LMI's schema ask of an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmi.api import Constraint, RequestError
from lmi.serving.bodies import validated
from lmi.serving.invocation import Invocation
from lmi.serving.parameters import Parameters

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}
NAMED = {"name": "size", "schema": SCHEMA}


def read(**parameters: Any) -> Parameters:
    found = validated(Invocation, {"inputs": "x", "parameters": parameters}).parameters
    found.check()
    return found


@pytest.mark.parametrize(
    ("parameters", "kind", "source"),
    [
        ({"grammar": {"type": "json", "value": SCHEMA}}, "json_schema", SCHEMA),
        ({"grammar": {"type": "json", "value": json.dumps(SCHEMA)}}, "json_schema", SCHEMA),
        ({"grammar": {"type": "json_schema", "value": NAMED}}, "json_schema", SCHEMA),
        ({"grammar": {"type": "json_schema", "value": SCHEMA}}, "json_schema", SCHEMA),
        ({"grammar": {"type": "regex", "value": "a+"}}, "regex", "a+"),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", SCHEMA),
        ({"guided_regex": r"\d{3}"}, "regex", r"\d{3}"),
        ({"guided_regex": r"\p{L}+"}, "regex", r"\p{L}+"),
        ({"guided_choice": ["ja", "nein"]}, "choice", ["ja", "nein"]),
        ({"guided_grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
    ],
)
def test_every_way_to_ask_for_a_constraint_gives_its_source(parameters: dict[str, Any], kind: str, source: Any) -> None:
    found = read(**parameters).sampling(shows_logprobs=False).constraint
    assert found is not None
    assert found.kind == kind
    assert (found.source if isinstance(source, str) else json.loads(found.source)) == source


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"grammar": {"type": "json", "value": 7}}, "a JSON schema"),
        ({"grammar": {"type": "json", "value": "{"}}, "a JSON schema"),
        ({"grammar": {"type": "json_schema", "value": {"name": "x", "schema": "no"}}}, "a JSON schema"),
        ({"grammar": {"type": "regex", "value": {}}}, "value of type 'regex' should be a text"),
        ({"grammar": {"type": "xml", "value": ""}}, "'json', 'json_schema' or 'regex'"),
        ({"grammar": {"value": "a"}}, "grammar.type is missing"),
        ({"guided_json": "[]"}, "a JSON schema"),
        ({"guided_json": []}, "a JSON schema"),
        ({"guided_regex": ""}, "at least 1 character"),
        ({"guided_choice": []}, "at least 1 item"),
        ({"guided_choice": [""]}, "at least 1 character"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_json and guided_regex exclude each other"),
        ({"n": 3, "best_of": 2}, "n=3 answers of best_of=2: there are not as many"),
        ({"n": 3, "num_beams": 2}, "n=3 answers of num_beams=2"),
        ({"best_of": 3, "num_beams": 2}, "best_of=3 and num_beams=2 exclude each other"),
        ({"early_stopping": "maybe"}, "True, False or 'never'"),
        ({"length_penalty": 2.0}, "length_penalty=2.0: of use in a beam search only, and num_beams is 1"),
        ({"early_stopping": True, "n": 2}, "early_stopping=True: of use in a beam search only"),
        ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens=False"),
    ],
)
def test_what_no_engine_could_do_is_refused_with_what_is_wrong(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**parameters)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "is_single", "n_candidates"),
    [
        ({}, True, 1),
        ({"n": 1, "best_of": 1, "num_beams": 1, "length_penalty": 1.0, "early_stopping": False}, True, 1),
        ({"n": 2}, False, 2),
        ({"best_of": 4}, False, 4),
        ({"n": 2, "best_of": 4}, False, 4),
        ({"num_beams": 4}, False, 1),
        ({"num_beams": 4, "best_of": 4, "n": 4}, False, 4),
    ],
)
def test_one_sequence_is_told_from_several(parameters: dict[str, Any], is_single: bool, n_candidates: int) -> None:
    found = read(**parameters)
    assert (found.is_single, found.n_candidates) == (is_single, n_candidates)


@pytest.mark.parametrize(
    ("parameters", "n_logprobs"),
    [
        ({}, None),
        ({"n": 3}, None),
        ({"best_of": 3}, 0),
        ({"n": 3, "best_of": 3}, None),
        ({"num_beams": 2}, 0),
        ({"logprobs": 4}, 4),
        ({"top_n_tokens": 0}, 0),
        ({"num_beams": 2, "logprobs": 4}, 4),
    ],
)
def test_log_probabilities_are_asked_for_where_they_are_needed(
    parameters: dict[str, Any], n_logprobs: int | None
) -> None:
    assert read(**parameters).sampling(shows_logprobs=False).n_logprobs == n_logprobs


@pytest.mark.parametrize(
    ("parameters", "n"),
    [({}, None), ({"decoder_input_details": True}, 0), ({"prompt_logprobs": 3, "decoder_input_details": True}, 3)],
)
def test_those_of_the_prompt_too(parameters: dict[str, Any], n: int | None) -> None:
    assert read(**parameters).sampling(shows_logprobs=True).n_prompt_logprobs == n


@pytest.mark.parametrize(
    ("parameters", "field", "shown"),
    [
        ({"best_of": 3}, "n_logprobs", "best_of=3"),
        ({"num_beams": 3}, "n_logprobs", "num_beams=3"),
        ({"num_beams": 3, "top_n_tokens": 1}, "n_logprobs", "top_n_tokens=1"),
        ({"prompt_logprobs": 1}, "n_prompt_logprobs", "prompt_logprobs=1"),
        ({"bad_sequences": ["x"]}, "bad_word_ids", "bad_words=['x']"),
        ({"guided_choice": ["a" * 200]}, "constraint", "guided_choice=['" + "a" * 75 + "..."),
        ({"top_k": 3}, "top_k", "top_k=3"),
    ],
)
def test_a_refusal_names_what_the_caller_sent(parameters: dict[str, Any], field: str, shown: str) -> None:
    assert read(**parameters).asked_as(field, None) == shown


def test_a_constraint_is_none_where_nothing_asks_for_one() -> None:
    assert read().sampling(shows_logprobs=True).constraint is None
    assert isinstance(read(guided_regex="a").sampling(shows_logprobs=True).constraint, Constraint)
