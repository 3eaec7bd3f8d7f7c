# SPDX-License-Identifier: Apache-2.0
"""K, continued: what an engine can do besides generating, where it is declared."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path

from lmi.api import (
    Capability,
    EngineDeadError,
    LmiError,
    RequestError,
    SamplingParams,
    SupportsAdapters,
    SupportsClassification,
    SupportsEmbedding,
    SupportsPinnedAdapters,
    Task,
    UnsupportedError,
)
from lmi.artifacts import detect
from lmi.compiling.build import build
from lmi.serving.capabilities import refuse_undeclared
from lmi.testing.checkpoints import write_tiny_adapter
from lmi.testing.kit import Kit
from lmi.testing.remote import has_ranks, python_path
from lmi.testing.rules import NotDeclared, rule

_CALL_S = 60.0


class AbilityRules:
    """Rules K-adapters, K-tensor_parallel, K-embedding, K-classification and K-compile."""

    @rule("K-adapters", "adapters come, change the answer, and go; one that is not loaded is refused")
    def test_k_adapters(self, kit: Kit) -> None:
        engine = kit.engine.engine
        if not kit.declares(Capability.ADAPTERS):
            assert not isinstance(engine, SupportsAdapters), "the engine has adapters: declare the capability"
            try:
                refuse_undeclared(kit.info, SamplingParams(max_tokens=1), "a", {})
            except UnsupportedError:
                return
            raise AssertionError("adapters are not declared, and a request that names one is not refused")
        assert isinstance(engine, SupportsAdapters), (
            "adapters are declared: the engine needs the methods of SupportsAdapters"
        )
        assert kit.folder is not None
        path = kit.case.adapter or write_tiny_adapter(kit.scratch / "adapter", kit.folder)
        plain = [kit.greedy_ids(number) for number in range(4)]
        kit.engine.call(lambda: engine.load_adapter("a", str(path)), kit.case.load_s)
        listed = kit.engine.call(engine.list_adapters, _CALL_S)
        assert listed == ["a"], f"adapter a was loaded, {listed} are listed"
        with_adapter = [kit.request(kit.prompt(number), adapter="a") for number in range(4)]
        without = [kit.request(kit.prompt(number)) for number in range(4)]
        answers = [answer.whole() for answer in kit.engine.answers([*with_adapter, *without])]
        assert [answer.ids for answer in answers[:4]] != plain, "the adapter changes none of 4 answers"
        for number, answer in enumerate(answers[4:]):
            kit.check_same(answer, number, "beside requests of an adapter")
        _refuses_to_load(kit, engine, kit.scratch / "no-such-adapter")
        if isinstance(engine, SupportsPinnedAdapters):
            _pins(kit, engine)
        kit.engine.call(lambda: engine.unload_adapter("a"), _CALL_S)
        assert kit.engine.call(engine.list_adapters, _CALL_S) == [], "an unloaded adapter is still listed"
        for name in ("a", "never-loaded"):
            error = kit.engine.answers([kit.request(kit.prompt(0), adapter=name)])[0].error
            assert isinstance(error, RequestError), f"adapter {name!r} is not loaded, and its request got {error!r}"
            assert name in str(error), f"the refusal does not name the adapter: {error}"

    @rule("K-tensor_parallel", "split over devices, where the case has them, a model gives the same ids")
    def test_k_tensor_parallel(self, kit: Kit) -> None:
        degree = kit.case.tensor_parallel_degree
        if degree == 1:
            raise NotDeclared("the case has one device")
        _ = [kit.greedy_ids(number) for number in range(4)]  # on one device, before there is an engine on several
        with kit.fresh(kit.plan(tensor_parallel_degree=degree)) as engine:
            answers = engine.answers([kit.request(kit.prompt(number)) for number in range(4)])
        for number, answer in enumerate(answers):
            kit.check_same(answer.whole(), number, f"tensor_parallel_degree={degree}")

    @rule("K-embedding", "vectors, if the engine makes them: one a text, finite, alike in length, of length 1 if asked")
    def test_k_embedding(self, kit: Kit) -> None:
        engine = kit.engine.engine
        if not isinstance(engine, SupportsEmbedding):
            assert kit.plan().task is not Task.EMBED, "it is to make vectors: its engine needs SupportsEmbedding"
            raise NotDeclared("the engine makes no vectors")
        texts = [kit.prompt(number) for number in range(3)]
        vectors = kit.engine.call(lambda: engine.embed(texts), _CALL_S)
        assert len(vectors) == len(texts), f"{len(texts)} texts, {len(vectors)} vectors"
        assert len({len(vector) for vector in vectors}) == 1, "the vectors differ in length"
        assert all(abs(x) < float("inf") for vector in vectors for x in vector), "a vector is not finite"
        assert vectors[0] != vectors[1], "two texts have the same vector"
        again = kit.engine.call(lambda: engine.embed(texts[:1]), _CALL_S)[0]
        far = max(abs(a - b) for a, b in zip(again, vectors[0], strict=True))
        assert far < 1e-3, f"a text's vector differs by {far:g} from the one it has beside others"
        _are_of_length_1(vectors, kit.engine.call(lambda: engine.embed(texts, False), _CALL_S))
        n_dimensions = max(1, len(vectors[0]) // 2)
        try:
            cut = kit.engine.call(lambda: engine.embed(texts, True, n_dimensions), _CALL_S)
        except RequestError:
            return  # not every model's vectors can be cut
        found = {len(vector) for vector in cut}
        assert found == {n_dimensions}, f"vectors of {n_dimensions} numbers were asked for, {found} came"

    @rule("K-classification", "probabilities of labels, if the engine gives them: one list a text, each from 0 to 1")
    def test_k_classification(self, kit: Kit) -> None:
        engine = kit.engine.engine
        if not isinstance(engine, SupportsClassification):
            assert kit.plan().task is not Task.CLASSIFY, "it is to give labels: its engine needs SupportsClassification"
            raise NotDeclared("the engine gives no labels")
        texts = [kit.prompt(number) for number in range(3)]
        found = kit.engine.call(lambda: engine.classify(texts), _CALL_S)
        assert len(found) == len(texts), f"{len(texts)} texts, {len(found)} lists"
        assert len({len(each) for each in found}) == 1, "the lists differ in length"
        assert all(0 <= x <= 1 for each in found for x in each), f"not every number is a probability: {found}"
        again = kit.engine.call(lambda: engine.classify(texts[1:2]), _CALL_S)[0]
        far = max(abs(a - b) for a, b in zip(again, found[1], strict=True))
        assert far < 1e-3, f"a text's probabilities differ by {far:g} from those it has beside others"

    @rule("K-compile", "what is compiled ahead of time is found again, loads, and gives the same ids")
    def test_k_compile(self, kit: Kit) -> None:
        hook = kit.plugins.hooks(kit.case.backend).lmi_compile_artifacts
        if not hook.get_hookimpls():
            assert not kit.info.needs_compile, "needs_compile is declared: implement lmi_compile_artifacts"
            raise NotDeclared("nothing is compiled ahead of time")
        _ = [kit.greedy_ids(number) for number in range(2)]  # before there is another engine
        output, stages = kit.scratch / "compiled", list[str]()
        output.mkdir()
        plan = kit.plan()

        def progress(stage: str, fraction: float | None = None) -> None:
            stages.append(stage)

        if has_ranks(plan):  # each of them builds its part
            build(plan, kit.plugins, output, environ={**os.environ, **python_path()}, progress=progress)
            compiled = detect(output)
        else:
            compiled = hook(artifacts=plan.artifacts, config=plan.config, output_dir=str(output), progress=progress)
        assert stages, "compiling never called progress"
        assert any(output.iterdir()), "nothing was written into output_dir"
        assert compiled.folder == str(output), f"the artifacts are in {compiled.folder!r}, not in output_dir"
        found = detect(output)
        assert found.format is compiled.format, f"what was compiled is taken for {found.format.value}"
        with kit.fresh(kit.plan(output)) as engine:
            answers = engine.answers([kit.request(kit.prompt(number)) for number in range(2)])
        for number, answer in enumerate(answers):
            kit.check_same(answer.whole(), number, "compiled ahead of time")


def _refuses_to_load(kit: Kit, engine: SupportsAdapters, path: Path) -> None:
    """A folder that is not there is refused by name, and everything goes on beside it."""
    try:
        kit.engine.call(lambda: engine.load_adapter("b", str(path)), kit.case.load_s)
    except LmiError as error:
        assert not isinstance(error, EngineDeadError), f"a wrong folder of an adapter killed the engine: {error}"
        assert str(path) in str(error), f"the refusal does not name the folder {path}: {error}"
    else:
        raise AssertionError("an adapter was loaded from a folder that is not there")
    listed = kit.engine.call(engine.list_adapters, _CALL_S)
    assert listed == ["a"], f"an adapter could not be loaded, and then {listed} are listed"
    requests = [kit.request(kit.prompt(0), adapter="a"), kit.request(kit.prompt(0))]
    _, without = (answer.whole() for answer in kit.engine.answers(requests))
    kit.check_same(without, 0, "after an adapter could not be loaded")


def _pins(kit: Kit, engine: SupportsPinnedAdapters) -> None:
    """What holds already may be asked for again, adapters that are not loaded are refused, and all answer as before."""
    before = kit.engine.answers([kit.request(kit.prompt(0), adapter="a")])[0].whole().ids
    for is_pinned in (True, True, False, False):
        kit.engine.call(partial(engine.pin_adapter, "a", is_pinned), kit.case.load_s)
        requests = [kit.request(kit.prompt(0), adapter="a"), kit.request(kit.prompt(0))]
        adapted, plain = (answer.whole() for answer in kit.engine.answers(requests))
        what = "pinned" if is_pinned else "let go"
        assert adapted.ids == before, f"adapter a was {what}, and answers otherwise"
        kit.check_same(plain, 0, f"beside an adapter that was {what}")
    try:
        kit.engine.call(lambda: engine.pin_adapter("never-loaded", True), _CALL_S)
    except RequestError as error:
        assert "never-loaded" in str(error), f"the refusal does not name the adapter: {error}"
    else:
        raise AssertionError("an adapter was pinned that is not loaded")


def _are_of_length_1(vectors: list[list[float]], plain: list[list[float]]) -> None:
    """Normalized vectors have the length 1, and the direction of those that are not."""
    for vector, other in zip(vectors, plain, strict=True):
        length, scale = math.hypot(*vector), math.hypot(*other) or 1.0
        assert abs(length - 1) < 1e-3, f"normalize gave a vector of length {length:g}"
        far = max(abs(a - b / scale) for a, b in zip(vector, other, strict=True))
        assert far < 1e-3, f"without normalize a vector points elsewhere, by {far:g}"
