# SPDX-License-Identifier: Apache-2.0
"""lmi_hf.tasks: labels, words, masks and questions, against transformers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lmi.api import EngineLoadError, Inputs, RequestError, Task, TaskRequest, task_named
from lmi.artifacts import detect
from lmi.serving.task_bodies import checked_body
from tests.backends.task_models import CONTEXT_TOKENS, LABELS, from_pipeline, is_alike, write_task_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXT = "Ada lives in London and works at a big old bank near the river."
LONG = " ".join([TEXT] * 6)
QUESTION = {"question": "Where does Ada live?", "context": TEXT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")
    return cache(lambda task: write_task_model(root / task, task))


def load(path: Path, name: str, most_tokens: int = 0) -> Any:
    from lmi_hf.tasks.answerers import answerer_of
    from lmi_hf.tasks.heads import load_head

    task = task_named(name)
    assert task is not None
    artifacts = detect(path)

    def progress(stage: str, fraction: float | None = None) -> None:
        pass

    return answerer_of(
        artifacts, task, lambda: load_head(artifacts, {"dtype": torch.float32}, task, progress),
        most_tokens=most_tokens, trust_remote_code=False, n_threads=1, progress=progress,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(folder: Callable[[str], Path]) -> Callable[[str], Any]:
    return cache(lambda name: load(folder(name), name))


def ask(model: Any, name: str, inputs: Any, compute: Any = None, **parameters: Any) -> Any:
    """What a model answers to a body that the server has checked."""
    body = checked_body(json.dumps({"inputs": inputs, "parameters": parameters}).encode(), model="m", task=Task(name))
    return json.loads(model.run_task(TaskRequest(request_id="1", body=body), compute or model.compute))


def plain(answer: Any) -> Any:
    return json.loads(json.dumps(answer, default=float))


# ------------------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_words_are_labelled_as_by_transformers(folder: Any, model: Any, strategy: str) -> None:
    expected = from_pipeline(
        folder("token-classification"), "token-classification", TEXT, aggregation_strategy=strategy
    )
    found = ask(model("token-classification"), "token-classification", TEXT, aggregation_strategy=strategy)
    assert len(found) > 3
    assert is_alike(found, plain(expected))


def test_words_of_several_texts_are_lists_in_order_and_labels_may_be_left_out(folder: Any, model: Any) -> None:
    texts, ignored = [TEXT, "Paris"], ["O", "B-PER", "I-PER"]
    expected = from_pipeline(folder("token-classification"), "token-classification", texts, ignore_labels=ignored)
    found = ask(model("token-classification"), "token-classification", texts, ignore_labels=ignored)
    assert is_alike(found, plain(expected))
    assert not {word["entity"] for words in found for word in words} & set(ignored)


def test_a_long_text_is_read_in_windows_where_a_stride_is_sent(folder: Any, model: Any) -> None:
    given = {"aggregation_strategy": "simple", "stride": 8}
    expected = from_pipeline(folder("token-classification"), "token-classification", LONG, **given)
    found = ask(model("token-classification"), "token-classification", LONG, **given)
    assert found[-1]["end"] > len(LONG) * 0.8
    assert is_alike(found, plain(expected))


@pytest.mark.parametrize(
    ("inputs", "parameters", "said"),
    [
        (
            ["Paris", LONG], {},
            r"request\.too-long: inputs\[1\] has 92 tokens; this model takes 64\. Shorten it by 28 tokens, or send str",
        ),
        (LONG, {"aggregation_strategy": "simple", "stride": 62}, r"stride=62; a window has 62 tokens"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_labelled(model: Any, inputs: Any, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ask(model("token-classification"), "token-classification", inputs, **parameters)


# ------------------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        ("the capital of france is [MASK].", {}),
        ("the [MASK] of [MASK] is", {"top_k": 3}),
        ("ada lives in [MASK]", {"targets": ["paris", "london"]}),
        ("ada lives in [MASK]", {"targets": "paris", "top_k": 4}),
        (["ada lives in [MASK]", "[MASK] works"], {"top_k": 2}),
    ],
)
def test_masks_are_filled_as_by_transformers(folder: Any, model: Any, inputs: Any, parameters: dict[str, Any]) -> None:
    expected = from_pipeline(folder("fill-mask"), "fill-mask", inputs, **parameters)
    assert is_alike(ask(model("fill-mask"), "fill-mask", inputs, **parameters), plain(expected))


def test_more_words_than_there_are_is_all_of_them(model: Any) -> None:
    assert len(ask(model("fill-mask"), "fill-mask", "[MASK]", top_k=10_000)) == model("fill-mask").limits.vocab_size


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("no gap", r"request\.no-mask: inputs has no \[MASK\]\. Write \[MASK\] where a word is missing"),
        (["[MASK]", "no gap"], r"request\.no-mask: inputs\[1\] has no \[MASK\]"),
        (f"{LONG} [MASK]", r"request\.too-long: inputs has 93 tokens; this model takes 64\. Shorten it by 29 tokens"),
    ],
)
def test_masks_that_cannot_be_filled(model: Any, inputs: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ask(model("fill-mask"), "fill-mask", inputs)


def test_a_target_without_a_token_is_named(model: Any) -> None:
    with pytest.raises(RequestError, match=r"request\.invalid: targets=\[''\]: none of them has a token"):
        ask(model("fill-mask"), "fill-mask", "[MASK]", targets=[""])


def test_a_tokenizer_without_a_mask_is_refused_at_the_start(folder: Any, tmp_path: Path) -> None:
    path = write_task_model(tmp_path / "model", "fill-mask")
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(EngineLoadError, match=r"engine\.no-mask: the model's tokenizer has no mask_token"):
        load(path, "fill-mask")


# -------------------------------------------------------------------------------------------------------- questions


def waves(inputs: Inputs) -> tuple[Any, ...]:
    """Logits of starts and ends that depend on ids and places, and on no weights."""
    ids = torch.tensor(inputs["input_ids"]).double()
    places = torch.arange(ids.shape[-1])
    return 3 * torch.sin(7 * ids + 0.3 * places), 3 * torch.cos(5 * ids + 0.2 * places)


@pytest.mark.parametrize(
    ("context", "parameters", "answers"),
    [  # what the pipeline of transformers 4.57.1 makes of the same logits
        (TEXT, {}, [(0.046282, 4, 34, "lives in London and works at a")]),
        (
            TEXT, {"top_k": 3},
            [
                (0.046282, 4, 34, "lives in London and works at a"), (0.046177, 33, 34, "a"),
                (0.039725, 4, 63, "lives in London and works at a big old bank near the river."),
            ],
        ),
        (
            TEXT, {"top_k": 2, "handle_impossible_answer": True, "max_answer_len": 1},
            [(0.046177, 33, 34, "a"), (0.039411, 0, 3, "Ada")],
        ),
        (
            TEXT, {"top_k": 4, "align_to_words": False, "max_answer_len": 3},
            [
                (0.046177, 33, 34, "a"), (0.039411, 0, 3, "Ada"), (0.02537, 62, 63, "."),
                (0.007582, 24, 34, "works at a"),
            ],
        ),
        (
            LONG, {"top_k": 2, "max_seq_len": 40, "doc_stride": 10},
            [(0.027601, 103, 111, "old bank"), (0.026561, 103, 120, "old bank near the")],
        ),
        (
            LONG, {"top_k": 3},
            [(0.008304, 94, 102, "at a big"), (0.007128, 254, 268, ". Ada lives in"), (0.00688, 254, 255, ".")],
        ),
        (
            LONG, {"handle_impossible_answer": True, "max_seq_len": 30, "doc_stride": 5, "top_k": 5},
            [
                (0.044886, 62, 63, "."), (0.043503, 231, 265, "old bank near the river. Ada lives"),
                (0.043175, 231, 244, "old bank near"), (0.041413, 99, 126, "big old bank near the river"),
                (0.039975, 231, 239, "old bank"),
            ],
        ),
    ],
)  # fmt: skip
def test_questions_are_answered_as_transformers_4_did(
    model: Any, context: str, parameters: dict[str, Any], answers: list[tuple[float, int, int, str]]
) -> None:
    question = {**QUESTION, "context": context}
    found = ask(model("question-answering"), "question-answering", question, waves, **parameters)
    expected = [dict(zip(("score", "start", "end", "answer"), answer, strict=True)) for answer in answers]
    assert is_alike(found if isinstance(found, list) else [found], expected, 1e-5)
    assert isinstance(found, list) == ("top_k" in parameters)


def test_the_best_answer_is_the_span_with_the_largest_product_of_the_models_probabilities(
    folder: Any, model: Any
) -> None:
    import transformers

    path = folder("question-answering")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    read = tokenizer(QUESTION["question"], TEXT, return_tensors="pt", return_offsets_mapping=True)
    places = read.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = transformers.AutoModelForQuestionAnswering.from_pretrained(path, dtype=torch.float32)(**read)
    text = [number for number, each in enumerate(read.sequence_ids(0)) if each == 1]
    spans = [(a, b) for a in text for b in text if 0 <= b - a < 15]
    first, last = max(spans, key=lambda span: float(output.start_logits[0, span[0]] + output.end_logits[0, span[1]]))
    found = ask(model("question-answering"), "question-answering", QUESTION, align_to_words=False)
    assert (found["start"], found["end"]) == (places[first][0], places[last][1])
    assert found["answer"] == TEXT[found["start"] : found["end"]]


def test_no_answer_is_one_where_it_may_be(model: Any) -> None:
    def none(inputs: Inputs) -> tuple[Any, ...]:
        logits = torch.zeros(1, len(inputs["input_ids"][0]))
        logits[0, 0] = 20.0
        return logits, logits.clone()

    answer = ask(model("question-answering"), "question-answering", QUESTION, none, handle_impossible_answer=True)
    assert (answer["answer"], answer["start"], answer["end"]) == ("", 0, 0)
    assert answer["score"] > 0.9
    assert ask(model("question-answering"), "question-answering", QUESTION, none)["answer"] != ""


def test_a_long_question_is_cut_where_the_request_says(model: Any) -> None:
    read: list[int] = []

    def count(inputs: Inputs) -> tuple[Any, ...]:
        read.append(inputs["token_type_ids"][0].count(0))
        return waves(inputs)

    for most in (64, 2):
        ask(model("question-answering"), "question-answering", QUESTION, count, max_question_len=most)
    assert read == [7, 4], "[CLS], the question's words and [SEP]"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_seq_len": 99}, r"request\.invalid: max_seq_len=99; this model takes 64 tokens\. Send 64 or less"),
        ({"max_seq_len": 20, "doc_stride": 15}, r"5 tokens of the question leave 12 of 20 for the text, of which 15"),
        ({"max_seq_len": 8}, r"request\.too-long: inputs\[0\]: 5 tokens of the question leave 0 of 8"),
    ],
)
def test_windows_that_cannot_be_made(model: Any, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ask(model("question-answering"), "question-answering", [QUESTION], **parameters)


# ----------------------------------------------------------------------------------------------------------- labels


def ids_of(path: Path, texts: list[str]) -> list[list[int]]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return [tokenizer(text)["input_ids"] for text in texts]


def test_texts_are_labelled_as_by_transformers_alone_and_together(folder: Any, model: Any) -> None:
    path, texts = folder("text-classification"), [TEXT, "Paris", "Rome is a city", TEXT[:20]]
    expected = from_pipeline(path, "text-classification", texts, top_k=None)
    classifier = model("text-classification")
    found = classifier.classify(ids_of(path, texts), classifier.compute)
    named = [dict(zip(LABELS, scores, strict=True)) for scores in found]
    assert is_alike(named, [{each["label"]: each["score"] for each in answer} for answer in expected])


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_labels_that_do_not_exclude_each_other_have_scores_of_their_own(tmp_path: Path, kind: str) -> None:
    path = write_task_model(tmp_path / "model", "text-classification", problem_type=kind)
    expected = from_pipeline(path, "text-classification", TEXT, top_k=None)
    classifier = load(path, "text-classification")
    (found,) = classifier.classify(ids_of(path, [TEXT]), classifier.compute)
    assert is_alike(dict(zip(LABELS, found, strict=True)), {each["label"]: each["score"] for each in expected})


def test_many_texts_are_read_in_batches_of_alike_lengths(model: Any) -> None:
    sizes: list[tuple[int, int]] = []

    def compute(inputs: Inputs) -> tuple[Any, ...]:
        rows = inputs["input_ids"]
        sizes.append((len(rows), len(rows[0])))
        return (torch.tensor([[float(row[0]), 0.0] for row in rows]),)

    prompts = [[number] * (1 + number % 40) for number in range(1, 100)]
    found = model("text-classification").classify(prompts, compute)
    assert [scores[0] for scores in found] == sorted(scores[0] for scores in found), "answers are in order"
    assert sum(n_rows for n_rows, _ in sizes) == 99
    assert max(n_rows for n_rows, _ in sizes) == 32
    assert [length for _, length in sizes] == sorted(length for _, length in sizes)


# ---------------------------------------------------------------------------------------------------------- loading


def test_a_checkpoint_that_lacks_the_head_is_refused_with_its_weights(folder: Any) -> None:
    said = (
        r"engine\.weights-missing: BertForQuestionAnswering has weights that .* lacks: qa_outputs\.bias, qa_outputs\.w"
    )
    with pytest.raises(EngineLoadError, match=said):
        load(folder("token-classification"), "question-answering")


@pytest.mark.parametrize(
    ("model_type", "most_tokens", "n_tokens"),
    [("bert", 0, CONTEXT_TOKENS), ("bert", 40, 40), ("bert", 1024, CONTEXT_TOKENS), ("roberta", 0, CONTEXT_TOKENS - 2)],
)
def test_an_input_is_as_long_as_there_are_positions_behind_the_paddings(
    tmp_path: Path, model_type: str, most_tokens: int, n_tokens: int
) -> None:
    path = write_task_model(
        tmp_path / "model", "fill-mask", model_type, pad_token_id=1 if model_type == "roberta" else 0
    )
    model = load(path, "fill-mask", most_tokens)
    assert model.limits.max_context_tokens == n_tokens
    text = " ".join(["[MASK]"] + ["paris"] * (n_tokens - 3))
    assert len(ask(model, "fill-mask", text, top_k=1)) == 1
    with pytest.raises(RequestError, match=rf"has {n_tokens + 1} tokens; this model takes {n_tokens}"):
        ask(model, "fill-mask", f"{text} paris")
