# SPDX-License-Identifier: Apache-2.0
"""Loading a model of neuronx on a stand-in: where its graph and its weights come from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lmi.api import EngineLoadError
from lmi.starting import bring_here
from lmi.testing import write_tiny
from lmi_neuronx import lmi_compile_artifacts
from lmi_neuronx.checkpoints import as_gpt2
from tests.backends.neuron_standin import COMPILER, loaded, planned, recorded, refusal
from tests.buckets import Bucket

pytestmark = pytest.mark.usefixtures("neuron_libraries")

QUIET = lambda stage, fraction=None: None  # noqa: E731


@pytest.fixture(scope="module")
def compiled(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as compiling ahead of time writes it, in the layout of the SDK 2.16."""
    return compiled_into(tiny_llama, tmp_path_factory.mktemp("compiled"))


def compiled_into(folder: Path, output: Path, **options: Any) -> Path:
    made = planned(folder, **options)
    lmi_compile_artifacts(made.artifacts, made.config, str(output), QUIET)
    return output


def whats(record: Path) -> list[str]:
    return [each["what"] for each in recorded(record)]


# ---------------------------------------------------------------------------------------------------------- graphs


def test_a_model_without_a_graph_is_compiled(tiny_llama: Path, neuron_record: Path) -> None:
    loaded(planned(tiny_llama)).close()
    assert whats(neuron_record) == ["from_pretrained", "to_neuron", "compiled", "compiled", "compiled"][:4]


def test_a_compiled_model_brings_its_graph_its_weights_and_its_sizes(compiled: Path, neuron_record: Path) -> None:
    section = json.loads((compiled / "config.json").read_text())["neuron"]
    assert section == {
        "auto_cast_type": "f16", "batch_size": 4, "checkpoint_id": None, "checkpoint_revision": None,
        "compiler_type": "neuronx-cc", "compiler_version": COMPILER, "continuous_batching": True, "num_cores": 1,
        "sequence_length": 256,
    }  # fmt: skip
    assert (compiled / "compiled" / "VERSION").read_text().strip() == COMPILER
    found = loaded(planned(compiled, n_positions=None, max_rolling_batch_size=None))
    assert (found.limits.max_slots, found.limits.max_context_tokens) == (4, 256)
    assert whats(neuron_record) == ["from_pretrained", "load", "to_neuron"]
    first, load, _ = recorded(neuron_record)
    assert (first["path"], first["is_split"]) == (str(compiled / "checkpoint"), True)
    assert load["directory"] == str(compiled / "compiled")
    found.close()


def test_split_weights_go_with_a_graph_that_is_elsewhere(compiled: Path, tmp_path: Path, neuron_record: Path) -> None:
    """As the guide describes it: a folder pytorch_model.bin, and the graph at option.compiled_graph_path."""
    model, graph = tmp_path / "model", tmp_path / "graph"
    shutil.copytree(compiled / "checkpoint", model)
    for path in (*compiled.glob("token*"), compiled / "config.json"):
        shutil.copy(path, model / path.name)
    config = json.loads((model / "config.json").read_text())
    del config["neuron"]
    (model / "config.json").write_text(json.dumps(config))
    shutil.copytree(compiled / "compiled", graph)
    assert refusal(lambda: planned(model, compiled_graph_path=graph)).code == "weights.split"
    loaded(planned(model, load_split_model=True, compiled_graph_path=graph)).close()
    assert whats(neuron_record) == ["from_pretrained", "load", "to_neuron"]


def test_a_dump_of_a_compilers_cache_goes_to_the_compiler(
    tiny_llama: Path, tmp_path: Path, neuron_record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(cache))
    loaded(planned(tiny_llama)).close()
    neuron_record.unlink()
    for place in (cache, next(cache.iterdir())):
        monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "")
        loaded(planned(tiny_llama, compiled_graph_path=place)).close()
        assert os.environ["NEURON_COMPILE_CACHE_URL"] == str(cache)
        assert set(whats(neuron_record)) == {"from_pretrained", "to_neuron", "cached"}
        neuron_record.unlink()


def test_a_cache_that_may_only_be_read_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmi_neuronx.graphs import look_at, use_cache

    entry = tmp_path / "cache" / f"neuronxcc-{COMPILER}" / "MODULE_1"
    entry.mkdir(parents=True)
    (entry / "model.neff").touch()
    monkeypatch.setattr("lmi_neuronx.graphs.os.access", lambda path, mode: mode != os.W_OK)
    environ: dict[str, str] = {}
    use_cache(look_at(tmp_path / "cache", "it"), environ)
    copy = Path(environ["NEURON_COMPILE_CACHE_URL"])
    assert copy != tmp_path / "cache"
    assert [str(path.relative_to(copy)) for path in copy.rglob("*.neff")] == [
        f"neuronxcc-{COMPILER}/MODULE_1/model.neff"
    ]
    shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["graphs", "cache"])
def test_a_graph_in_an_object_store_is_looked_at_and_fetched_first(
    kind: str, tiny_llama: Path, compiled: Path, bucket: Bucket, tmp_path: Path, neuron_record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source = compiled / "compiled"
    if kind == "cache":
        source = tmp_path / "cache"
        monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(source))
        loaded(planned(tiny_llama)).close()
        monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "")
        neuron_record.unlink()
    for path in (each for each in source.rglob("*") if each.is_file()):
        bucket.put(f"graph/{path.relative_to(source)}", path.read_bytes())
    environ = {**os.environ, "LMI_CACHE_DIR": str(tmp_path / "lmi")}
    made = planned(tiny_llama, environ=environ, compiled_graph_path="s3://bucket/graph/")
    assert made.artifacts.further["compiled_graph_path"].is_elsewhere
    here = bring_here(made, environ, QUIET)
    loaded(here).close()
    expected = {"graphs": ["from_pretrained", "load", "to_neuron"]}
    assert "compiled" not in whats(neuron_record)
    assert whats(neuron_record)[: len(expected.get(kind, []))] == expected.get(kind, [])
    other = {**environ, "LMI_VERSIONS_FILE": str(tmp_path / "versions.json")}
    (tmp_path / "versions.json").write_text('{"neuronx-cc": "2.14.1"}')
    problem = refusal(lambda: planned(tiny_llama, environ=other, compiled_graph_path="s3://bucket/graph/"))
    assert problem.code == "model.compiler-version"
    assert COMPILER in problem.message


def test_a_prefix_without_a_graph_is_refused_before_anything_is_fetched(tiny_llama: Path, bucket: Bucket) -> None:
    bucket.put("graph/notes.txt", "nothing")
    problem = refusal(lambda: planned(tiny_llama, environ=os.environ, compiled_graph_path="s3://bucket/graph/"))
    assert problem.code == "config.compiled-graph"
    assert "holds no compiled graph" in problem.message


def test_a_graph_of_another_compiler_is_refused_before_weights_are_read(
    tiny_llama: Path, compiled: Path, tmp_path: Path, neuron_record: Path
) -> None:
    graph = tmp_path / "graph"
    shutil.copytree(compiled / "compiled", graph)
    (graph / "VERSION").write_text("2.14.1\n")
    problem = refusal(lambda: loaded(planned(tiny_llama, compiled_graph_path=graph)))
    assert problem.code == "model.compiler-version"
    assert "neuronx-cc 2.14.1 compiled the graph" in problem.message
    assert whats(neuron_record) == []


def test_a_graph_of_other_sizes_is_told_with_what_the_library_says(tiny_llama: Path, compiled: Path) -> None:
    made = planned(tiny_llama, compiled_graph_path=compiled / "compiled", n_positions=128)
    problem = refusal(lambda: loaded(made))
    assert problem.code == "engine.load-failed"
    assert "Could not find a matching NEFF" in problem.message


def test_a_class_that_loads_no_graphs_takes_a_cache(
    tmp_path: Path, neuron_record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny("gptj", tmp_path / "gptj")
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "a.neff").touch()
    problem = refusal(lambda: loaded(planned(folder, compiled_graph_path=tmp_path / "graphs")))
    assert (problem.code, "neuronxcc-*" in problem.hint) == ("config.compiled-graph", True)
    output = compiled_into(folder, tmp_path / "out")
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "")
    neuron_record.unlink()
    loaded(planned(output)).close()
    assert set(whats(neuron_record)) == {"from_pretrained", "to_neuron", "cached"}


def test_the_graph_of_a_compiled_model_serves_the_model_it_was_made_of(
    tiny_llama: Path, compiled: Path, neuron_record: Path
) -> None:
    loaded(planned(tiny_llama, compiled_graph_path=compiled / "compiled")).close()
    assert whats(neuron_record) == ["from_pretrained", "load", "to_neuron"]


# -------------------------------------------------------------------------------------------------- optimum-neuron


def test_what_optimum_neuron_compiled_is_loaded_as_it_is(tmp_path: Path, neuron_record: Path) -> None:
    folder = write_tiny("qwen2", tmp_path / "qwen2")
    output = compiled_into(folder, tmp_path / "out")
    neuron_record.unlink()
    found = loaded(planned(output, n_positions=None, max_rolling_batch_size=None))
    assert (found.limits.max_slots, found.limits.max_context_tokens) == (4, 256)
    assert whats(neuron_record) == ["from_pretrained"]
    found.close()


def test_a_model_of_optimum_neuron_for_other_devices_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny("qwen2", tmp_path / "qwen2")
    output = compiled_into(folder, tmp_path / "out")
    monkeypatch.setenv("STANDIN_NEURON_TARGET", "inf2")
    problem = refusal(lambda: loaded(planned(output)))
    assert (problem.code, "The model was compiled for trn1" in problem.message) == ("engine.load-failed", True)


# --------------------------------------------------------------------------------------------- rewritten checkpoints


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # transformers, for GPT-BigCode
@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode"])
def test_gpt2_and_bigcode_are_written_as_split_weights_of_gpt2(
    family: str, tmp_path: Path, neuron_record: Path
) -> None:
    folder = write_tiny(family, tmp_path / family)
    found = loaded(planned(folder, low_cpu_mem_usage=True))
    (call,) = recorded(neuron_record, "from_pretrained")
    assert (call["of"], call["is_split"]) == ("GPT2ForSamplingWithContextBroadcasting", True)
    assert not Path(call["path"]).exists()  # what was written for the load alone is gone
    assert found.limits.vocab_size == 300
    found.close()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # transformers, for GPT-BigCode
@pytest.mark.parametrize("has_shared_keys", [True, False])
def test_a_bigcode_as_gpt2_computes_the_same(has_shared_keys: bool) -> None:
    import transformers

    config = transformers.GPTBigCodeConfig(
        vocab_size=64, n_positions=32, n_embd=48, n_layer=2, n_head=4, multi_query=has_shared_keys
    )
    torch.manual_seed(1)
    model = transformers.GPTBigCodeForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    found = as_gpt2(model).eval()
    ids = torch.tensor([[3, 9, 27, 17, 51, 25]])
    with torch.no_grad():
        assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-4)


def test_a_bigcode_of_another_activation_is_refused() -> None:
    import transformers

    config = transformers.GPTBigCodeConfig(
        vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2, activation_function="relu"
    )
    with pytest.raises(EngineLoadError, match="activation_function is relu"):
        as_gpt2(transformers.GPTBigCodeForCausalLM(config))
