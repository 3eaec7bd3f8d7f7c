# SPDX-License-Identifier: Apache-2.0
"""K, continued: what an engine can do besides generating, where it is declared."""

from __future__ import annotations

from lmi.api import Capability, RequestError, SamplingParams, SupportsAdapters, SupportsEmbedding, UnsupportedError
from lmi.artifacts import detect
from lmi.serving.capabilities import refuse_undeclared
from lmi.testing.checkpoints import write_tiny_adapter
from lmi.testing.kit import Kit
from lmi.testing.rules import NotDeclared, rule

_CALL_S = 60.0


class AbilityRules:
    """Rules K-adapters, K-tensor_parallel, K-embedding and K-compile."""

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

    @rule("K-embedding", "vectors, if the engine makes them: one a text, finite, alike in length")
    def test_k_embedding(self, kit: Kit) -> None:
        engine = kit.engine.engine
        if not isinstance(engine, SupportsEmbedding):
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
        compiled = hook(
            artifacts=plan.artifacts,
            config=plan.config,
            output_dir=str(output),
            progress=lambda stage, fraction=None: stages.append(stage),
        )
        assert stages, "compiling never called progress"
        assert any(output.iterdir()), "nothing was written into output_dir"
        assert compiled.folder == str(output), f"the artifacts are in {compiled.folder!r}, not in output_dir"
        found = detect(output)
        assert found.format is compiled.format, f"what was compiled is taken for {found.format.value}"
        with kit.fresh(kit.plan(output)) as engine:
            answers = engine.answers([kit.request(kit.prompt(number)) for number in range(2)])
        for number, answer in enumerate(answers):
            kit.check_same(answer.whole(), number, "compiled ahead of time")
