# SPDX-License-Identifier: Apache-2.0
"""Constraints of requests that the core schedules: what they may give, and what else holds beside them."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st

from lmi.api import Constraint, Draft, EngineDeadError, FinishReason, RequestError, UnsupportedError
from lmi.scheduling import guides
from lmi.serving.tokenizer import FileTokenizer
from lmi.testing.shapes import BOS_ID, EOS_ID, VOCAB_SIZE
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.core.test_speculation import Guesser
from tests.core.tokenizer_folders import KINDS
from tests.steppers import Gate, ToyStepper, collect, ids_of, new_request, run, toy_limits


@cache
def tokenizer() -> FileTokenizer:
    with TemporaryDirectory() as folder:
        return FileTokenizer(write_tokenizer(folder) / "tokenizer.json", {})


def id_of(token):
    [token_id] = tokenizer().encode(token)
    return token_id


def stepper(**limits):
    return ToyStepper(toy_limits(**{"vocab_size": VOCAB_SIZE, "max_context_tokens": 512, **limits}))


def constrained(kind, source, name="r", max_tokens=60, **more):
    source = source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)
    return new_request(name, max_tokens=max_tokens, constraint=Constraint(kind=kind, source=source), **more)


def generate(requests, model=None, **options):
    """The chunks of each request, or what it failed with."""
    options = {"eos_token_ids": (EOS_ID,), "read_tokenizer": lambda: tokenizer().definition, **options}

    async def scenario(engine):
        return await asyncio.gather(*(collect(engine, each) for each in requests), return_exceptions=True)

    return run(scenario, model or stepper(), **options)


def alone(request, model=None, **options):
    [found] = generate([request], model, **options)
    if isinstance(found, Exception):
        raise found
    return found


def told(chunks):
    """The text of an answer, and why it ended."""
    return tokenizer().decode(ids_of(chunks)), chunks[-1].finish.reason


HOT = {"temperature": 1.0}
REGEX = ("regex", "[ab]{2,6}x")
DRAWS = ({}, HOT, {**HOT, "top_k": 40}, {**HOT, "top_p": 0.3}, {**HOT, "min_p": 0.2}, {**HOT, "typical_p": 0.4})
OBEYED = [
    ("regex", "[ab]{2,6}x", "[ab]{2,6}x"),
    ("regex", "(red|é😀)+;", "(red|é😀)+;"),
    ("choice", ["red", "reddish", 'q"\n'], 'red|reddish|q"\n'),
    ("grammar", 'root ::= "(" x ")"\nx ::= [0-9]{1,3}', r"\([0-9]{1,3}\)"),
    ("grammar", 'start: "(" X ")"\nX: /[0-9]{1,3}/', r"\([0-9]{1,3}\)"),
]


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: " ".join(draw) or "greedy")
@pytest.mark.parametrize(("kind", "source", "pattern"), OBEYED)
def test_an_output_keeps_to_its_constraint_and_ends_where_it_is_complete(kind, source, pattern, draw):
    text, reason = told(alone(constrained(kind, source, **draw)))
    assert re.fullmatch(pattern, text)
    assert reason is FinishReason.EOS


# -------------------------------------------------------------------------------------------------------------- schemas

GOLDEN = [
    {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "boolean"}},
     "required": ["b"], "additionalProperties": False}}, "required": ["a"], "additionalProperties": False},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["v"], "additionalProperties": False,
     "properties": {"v": {"enum": [1, 2]}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}},
    {"enum": ["naïve", "日本", "😀", '"', "\n", {"k": [None]}]},
    {"type": "array", "items": {"type": "integer", "minimum": -3, "maximum": 12}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"const": "x"}, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}, "maxProperties": 2},
    {"type": "string", "pattern": "^[A-C]{2}-[0-9]{2}$"},
    {"type": "string", "format": "date"},
    {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "number", "minimum": 0, "maximum": 1}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", GOLDEN, ids=lambda schema: json.dumps(schema)[:30])
def test_what_a_schema_gives_is_json_that_it_describes(schema):
    requests = [constrained("json_schema", schema, f"r{i}", 300, logit_bias=NO_BLANKS, **HOT) for i in range(6)]
    texts = []
    for found in generate(requests):
        text, reason = told(found)
        assert reason in (FinishReason.EOS, FinishReason.LENGTH)
        if reason is FinishReason.EOS:
            jsonschema.validate(json.loads(text), schema)
            texts.append(text)
    assert texts


NO_BLANKS = {tokenizer().encode(blank)[0]: -20.0 for blank in (" ", "\n", "\t", "\r")}
"""The toy likes nothing better than another blank."""

LEAVES = st.sampled_from([
    {"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": 4}, {"type": "integer", "maximum": 99,
     "minimum": -99}, {"enum": ["é", 1, None]}, {"const": {"deep": [1]}},
    {"type": "string", "pattern": "^[a-c]{1,3}$"},
])  # fmt: skip


def _larger(inner):
    names = st.lists(st.sampled_from(["a", "é", 'q"', "x y"]), unique=True, min_size=1, max_size=3)
    objects = names.flatmap(
        lambda found: st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.fixed_dictionaries(dict.fromkeys(found, inner)),
                "required": st.just(found[:2]),
                "additionalProperties": st.just(False),
            }
        )
    )
    arrays = st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(0, 2)})
    return objects | arrays | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)})


@settings(max_examples=30, deadline=None)
@given(schema=st.recursive(LEAVES, _larger, max_leaves=5), seed=st.integers(0, 2**32))
def test_any_schema_gives_json_that_it_describes(schema, seed):
    request = constrained("json_schema", schema, max_tokens=300, logit_bias=NO_BLANKS, temperature=1.0, seed=seed)
    text, reason = told(alone(request))
    assert reason is FinishReason.EOS
    jsonschema.validate(json.loads(text), schema)


# ----------------------------------------------------------------------------------------------------- what ends it


def test_min_tokens_holds_the_end_back_as_long_as_more_may_come():
    plain = alone(constrained("regex", "[ab]{1,9}", **HOT))
    held = alone(constrained("regex", "[ab]{1,9}", min_tokens=8, **HOT))
    assert len(ids_of(plain)) <= 8 < len(ids_of(held))
    assert told(held)[1] is FinishReason.EOS


@pytest.mark.parametrize("more", [{}, {"ignore_eos": True}], ids=["", "ignore_eos"])
def test_an_output_that_is_complete_before_min_tokens_is_an_error_that_says_so(more):
    with pytest.raises(RequestError, match="it is complete, and min_tokens=10 asks for more") as caught:
        alone(constrained("regex", "[ab]{4}", min_tokens=10, **more))
    assert caught.value.code == "request.constraint-failed"


def test_ids_that_are_all_held_back_are_an_error_that_says_so():
    letters = tuple(map(id_of, "ab"))
    with pytest.raises(RequestError, match=r"output token 0 .* of the 2 ids that may follow, all are held back"):
        alone(constrained("regex", "[ab]{4}", bad_token_ids=letters))
    assert told(alone(constrained("regex", "[ab]{4}", bad_token_ids=letters[:1])))[0] == "bbbb"
    assert told(alone(constrained("regex", "[ab]{4}", logit_bias={letters[0]: 100.0})))[0] == "aaaa"


def test_ignore_eos_goes_on_as_long_as_the_constraint_lets_it():
    text, reason = told(alone(constrained("regex", "[ab]{1,5}", ignore_eos=True)))
    assert (len(text), reason) == (5, FinishReason.EOS)
    text, reason = told(alone(constrained("regex", "[ab]+", ignore_eos=True, max_tokens=20)))
    assert (len(text), reason) == (20, FinishReason.LENGTH)


def test_a_stop_id_ends_the_output_where_the_constraint_lets_it_come():
    text, reason = told(alone(constrained("regex", "[ab]{3}c", stop_token_ids=(id_of("c"), id_of("d")))))
    assert (text[-1], reason) == ("c", FinishReason.STOP_TOKEN)
    special = constrained("regex", "[ab]{3}", stop_token_ids=(BOS_ID,), logit_bias={BOS_ID: 50.0})
    found = alone(special)
    assert (len(told(found)[0]), found[-1].finish.token_id) == (3, BOS_ID)


def test_any_of_several_end_ids_ends_a_complete_output():
    for liked in (EOS_ID, BOS_ID):
        found = alone(constrained("regex", "[ab]{3}", logit_bias={liked: 50.0}), eos_token_ids=(EOS_ID, BOS_ID))
        assert (len(told(found)[0]), found[-1].finish.token_id) == (3, liked)


def test_an_end_id_that_is_text_comes_where_the_output_is_complete_and_not_as_a_part_of_it():
    b = id_of("b")
    found = alone(constrained("regex", "[ab]{3}", logit_bias={b: 50.0}), eos_token_ids=(EOS_ID, b))
    assert (told(found)[0], found[-1].finish.token_id) == ("aaab", b)


# --------------------------------------------------------------------------------------------- beside other requests


def mixed():
    plain = [new_request(f"p{i}", [i + 1, 5], 30, ignore_eos=True, **HOT) for i in range(3)]
    return [
        *plain,
        constrained("json_schema", GOLDEN[0], "a", **HOT),
        constrained(*REGEX, "b", n_logprobs=2, **HOT),
        constrained("json_schema", GOLDEN[3], "c", repetition_penalty=1.3, frequency_penalty=0.3),
        constrained(*REGEX, "d", prompt_ids=[7] * 40, presence_penalty=0.5, **HOT),
    ]


def whole(chunks):
    logprobs = [entry for chunk in chunks for entry in chunk.logprobs or ()]
    return ids_of(chunks), logprobs, chunks[-1].finish, chunks[-1].usage


@pytest.mark.parametrize("limits", [{}, {"kv_capacity_tokens": 110}], ids=["roomy", "preempted"])
def test_requests_give_the_same_tokens_alone_and_among_others(limits):
    requests = mixed()
    assert list(map(whole, generate(requests, stepper(**limits)))) == [whole(alone(each)) for each in requests]


@pytest.mark.parametrize("n", [1, 2, 10**9])
def test_a_draft_changes_no_token_of_a_constrained_request(n):
    model = stepper()
    model.draft = Draft(stepper=Guesser(n, vocab_size=VOCAB_SIZE, max_context_tokens=512), n_tokens=3)
    requests = mixed()
    assert list(map(whole, generate(requests, model))) == [whole(alone(each)) for each in requests]


@pytest.mark.parametrize("draw", [{}, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize(("kind", "source"), [REGEX, ("json_schema", GOLDEN[0])])
def test_a_request_that_resumes_goes_on_with_the_tokens_it_would_have_had(kind, source, draw):
    unbroken = alone(constrained(kind, source, **draw))
    ids = ids_of(unbroken)
    for n in range(1, len(ids) + 1):
        resumed = alone(constrained(kind, source, resumed_ids=ids[:n], **draw))
        assert ids[:n] + ids_of(resumed) == ids
        assert (resumed[-1].finish, resumed[-1].usage) == (unbroken[-1].finish, unbroken[-1].usage)


def test_resumed_ids_that_break_the_constraint_are_refused():
    with pytest.raises(RequestError, match="the output so far breaks its constraint"):
        alone(constrained(*REGEX, resumed_ids=[id_of("z")]))


def test_log_probabilities_are_those_of_the_logits_as_they_are():
    [first, *_] = alone(constrained("regex", "[ab]x", n_logprobs=0))
    free = alone(new_request(max_tokens=1, n_logprobs=VOCAB_SIZE))
    told_of = dict(free[0].logprobs[0].top)
    assert first.logprobs[0].logprob == pytest.approx(told_of[first.ids[0]])
    assert first.logprobs[0].logprob < free[0].logprobs[0].logprob


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("json_schema", '{"type": "array", "uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"]'),
        ("regex", "a(?=b)", "look-around"),
        ("grammar", "root ::= x", "Rule 'x' not found"),
        ("xml", "<a/>", "the kind 'xml' is not known"),
    ],
)
def test_what_the_library_cannot_read_fails_alone_and_says_why(kind, source, words):
    good, bad = generate([constrained(*REGEX, "good"), constrained(kind, source, "bad")])
    assert ids_of(good) == ids_of(alone(constrained(*REGEX, "good")))
    assert isinstance(bad, RequestError)
    assert bad.code == "request.invalid"
    assert words in str(bad)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_tokenizer_that_the_library_cannot_read_is_named(kind):
    with pytest.raises(UnsupportedError, match="takes no constraints: can't determine decoder type"):
        alone(constrained(*REGEX), read_tokenizer=lambda: KINDS[kind]().to_str())


def test_a_model_without_an_end_takes_no_constraints():
    with pytest.raises(UnsupportedError, match="needs an end-of-sequence id"):
        alone(constrained(*REGEX), eos_token_ids=())


def test_a_stepper_that_samples_on_its_device_takes_no_constraints():
    with pytest.raises(UnsupportedError, match="a regex constraint was asked for"):
        alone(constrained(*REGEX), stepper(samples_on_device=True))


def test_a_constraint_that_is_not_compiled_in_time_fails_and_others_go_on(monkeypatch):
    monkeypatch.setattr(guides, "MOST_COMPILE_S", 0)
    bad, good = generate([constrained(*REGEX), new_request("good", max_tokens=5, ignore_eos=True)])
    assert isinstance(bad, RequestError)
    assert bad.code == "request.constraint-too-slow"
    assert len(ids_of(good)) == 5


def test_steps_go_on_while_a_constraint_is_compiled(monkeypatch):
    gate = Gate()
    compiled = guides.grammar_of

    def held(constraint):
        gate(None)
        return compiled(constraint)

    monkeypatch.setattr(guides, "grammar_of", held)

    async def scenario(engine):
        waiting = asyncio.ensure_future(collect(engine, constrained(*REGEX)))
        await gate.reached()
        other = await collect(engine, new_request("other", max_tokens=20, ignore_eos=True))
        assert not waiting.done()
        gate.open()
        return other, await waiting

    other, found = run(scenario, stepper(), eos_token_ids=(EOS_ID,), read_tokenizer=lambda: tokenizer().definition)
    assert len(ids_of(other)) == 20
    assert told(found)[1] is FinishReason.EOS


def test_closing_the_engine_ends_requests_whose_constraint_is_not_compiled(monkeypatch):
    gate, original = Gate(), guides.grammar_of
    monkeypatch.setattr(guides, "grammar_of", lambda each: gate(None) or original(each))

    async def scenario(engine):
        waiting = [asyncio.ensure_future(collect(engine, constrained("regex", each))) for each in "abc"]
        await gate.reached()
        await gate.reached()  # the third has to wait for one of the two
        await engine.close()
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        done = [each.done() for each in waiting]
        gate.open(2)
        return done, await asyncio.gather(*waiting, return_exceptions=True)

    done, errors = run(scenario, stepper(), eos_token_ids=(EOS_ID,), read_tokenizer=lambda: tokenizer().definition)
    assert done == [False, False, True]
    assert [(type(error), error.code) for error in errors] == [(EngineDeadError, "engine.closed")] * 3


def test_a_constraint_is_compiled_once_for_all_that_ask_for_it_and_forgotten_after_many_others(monkeypatch):
    compiled, original = [], guides.grammar_of
    monkeypatch.setattr(guides, "MOST_COMPILED", 2)
    monkeypatch.setattr(guides, "grammar_of", lambda each: compiled.append(each.source) or original(each))

    async def scenario(engine):
        for sources in (["a", "a", "a"], ["b"], ["a"], ["c"], ["b"], ["c"]):
            await asyncio.gather(*(collect(engine, constrained("regex", each)) for each in sources))

    run(scenario, stepper(), eos_token_ids=(EOS_ID,), read_tokenizer=lambda: tokenizer().definition)
    assert compiled == ["a", "b", "c", "b"]


def test_more_ids_in_the_tokenizer_than_in_the_logits_do_no_harm():
    padded, cut = stepper(vocab_size=VOCAB_SIZE + 50), stepper(vocab_size=VOCAB_SIZE - 30)
    for model in (padded, cut):
        text, reason = told(alone(constrained(*REGEX), model))
        assert re.fullmatch("[ab]{2,6}x", text)
        assert reason is FinishReason.EOS


def test_a_model_folder_gives_its_tokenizer(tmp_path: Path):
    from lmi.api import ArtifactError, ArtifactFormat, ModelArtifacts
    from lmi.serving.tokenizer import definition_of

    write_tokenizer(tmp_path)
    artifacts = ModelArtifacts(folder=str(tmp_path), format=ArtifactFormat.PRETRAINED)
    assert json.loads(definition_of(artifacts))["model"]["vocab"]["</s>"] == EOS_ID
    with pytest.raises(ArtifactError, match="without files"):
        definition_of(ModelArtifacts())
