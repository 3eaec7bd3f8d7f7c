# SPDX-License-Identifier: Apache-2.0
"""`lmi plan`: what a model needs, where it fits, and the stable form that programs read."""

import json
from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner

from lmi.api import ArtifactFormat, ConfigError
from lmi.cli.plan import plan
from lmi.cli.plan_text import lines_of
from lmi.config.model_entries import ModelEntry
from lmi.planning import instance_of
from lmi.planning.plan import plan_memory
from lmi.planning.report import as_json
from lmi.plugins import Plugins
from lmi.resolution import resolve
from tests.core import planned_models as models
from tests.core.planned_models import N_PARAMETERS, artifacts_of, write_sparse

ENVIRONMENT = ("SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "CUDA_VISIBLE_DEVICES", "SERVING_FEATURES")


@pytest.fixture(scope="module")
def llama_7b(tmp_path_factory):
    return write_sparse(tmp_path_factory.mktemp("models") / "llama-7b", models.LLAMA_2_7B, "F16")


@pytest.fixture(scope="module")
def llama_70b(tmp_path_factory):
    return write_sparse(tmp_path_factory.mktemp("models") / "llama-70b", models.LLAMA_3_70B)


@pytest.fixture
def run(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(plan, [*map(str, arguments)], catch_exceptions=False)


def planned(run, *arguments):
    found = run(*arguments, "--json")
    return found.exit_code, json.loads(found.stdout)


def test_a_model_that_fits_says_where_and_how_often(run, llama_7b):
    found = run(llama_7b, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert lines[1] == "machine: ml.g5.12xlarge, 4 x A10G of 24.1 GB"
    assert "weights: 13.5 GB in memory (fp16), 13.5 GB stored" in lines
    assert "cache: 524,288 bytes a token (fp16)" in lines
    assert next(line for line in lines if line.startswith("ml.g5.xlarge")).split()[1:4] == ["1", "x", "A10G"]
    assert lines[-1] == "model: fits"


def test_the_stable_form_has_these_fields(run, llama_7b):
    code, content = planned(run, llama_7b, "--instance", "g5.12xlarge", "-o", "rolling_batch=vllm")
    assert (code, content["schema"], content["format"], content["fits"]) == (0, "lmi.plan/1", "pretrained", True)
    assert set(content) == {
        "schema", "model", "place", "format", "architectures", "backend", "machine", "fits", "unknown", "weights",
        "cache", "degrees", "load", "machines", "backends", "start", "problems",
    }  # fmt: skip
    assert content["weights"] == {
        "stored_bytes": 2 * N_PARAMETERS["7B"], "served_bytes": 2 * N_PARAMETERS["7B"], "dtype": "fp16",
        "quantization": None, "copied_head_bytes": None, "is_quantized_checkpoint": False,
    }  # fmt: skip
    assert content["cache"]["token_bytes"] == 524_288
    assert [each["tensor_parallel_degree"] for each in content["degrees"]] == [1, 2, 4]
    assert set(content["degrees"][0]) == {
        "tensor_parallel_degree", "is_configured", "fits", "refusal", "weight_bytes", "activation_bytes",
        "overhead_bytes", "reserve_bytes", "cache_bytes", "cache_token_bytes", "most_tokens", "n_sequences", "n_copies",
    }  # fmt: skip
    assert set(content["backends"][0]) == {
        "name", "package", "is_installed", "takes", "reason", "install", "image", "tensor_parallel_degree",
        "n_sequences",
    }  # fmt: skip
    assert set(content["machines"][0]) == {
        "instance", "device", "n_devices", "device_memory_bytes", "has_nvlink", "tensor_parallel_degree", "n_copies",
        "n_sequences", "source",
    }  # fmt: skip


def test_more_devices_of_a_copy_hold_more_sequences(run, llama_7b):
    _, content = planned(run, llama_7b, "--device-memory", "24GiB x4", "-o", "rolling_batch=vllm")
    found = [each["n_sequences"] for each in content["degrees"]]
    assert found == sorted(found)
    assert 0 < found[0] < found[-1]


def test_a_model_of_seventy_billion_does_not_fit_and_the_machines_that_hold_it_are_named(run, llama_70b):
    code, content = planned(run, llama_70b, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm")
    assert (code, content["fits"]) == (1, False)
    assert content["weights"]["stored_bytes"] == 2 * N_PARAMETERS["70B"]
    (problem,) = [each for each in content["problems"] if each["code"] == "memory.model-too-large"]
    assert problem["hint"].startswith("It fits ml.")
    assert content["machines"][0]["instance"] in problem["hint"]
    assert "ml.p4d.24xlarge" in [each["instance"] for each in content["machines"]]


def test_it_fits_once_it_is_compressed(run, llama_70b):
    flags = ("--instance", "ml.g5.12xlarge", "-o", "rolling_batch=hf", "-o", "quantize=bitsandbytes4")
    code, content = planned(run, llama_70b, *flags)
    assert (code, content["weights"]["quantization"]) == (0, "bitsandbytes4")


def test_the_degree_that_is_set_is_the_one_that_counts(run, llama_7b):
    flags = ("--device-memory", "12GiBx4", "-o", "rolling_batch=vllm", "-o", "tensor_parallel_degree")
    assert planned(run, llama_7b, *flags[:-2])[0] == 0
    code, content = planned(run, llama_7b, *flags[:-1], f"{flags[-1]}=1")
    assert code == 1
    assert [each["tensor_parallel_degree"] for each in content["degrees"] if each["fits"]] == [2, 4]
    assert [each["tensor_parallel_degree"] for each in content["degrees"] if each["is_configured"]] == [1]


def test_a_shorter_length_makes_room(run, llama_7b):
    flags = (llama_7b, "--device-memory", "17GiB", "-o", "rolling_batch=vllm")
    code, content = planned(run, *flags)
    (row,) = content["degrees"]
    assert (code, row["fits"], 0 < row["most_tokens"] < 4096) == (1, False, True)
    assert planned(run, *flags, "--max-model-len", row["most_tokens"])[0] == 0


def test_on_one_device_a_fault_that_no_degree_mends_is_no_reason_against_the_degree(run, llama_7b):
    flags = ("--instance", "ml.g5.2xlarge", "-o", "rolling_batch=vllm", "-o", "max_model_len=2048")
    wrong = ("-o", "dtype=bf16", "-o", "quantize=gptq")  # llama_7b is not compressed
    _, content = planned(run, llama_7b, *flags, *wrong)
    assert [(each["tensor_parallel_degree"], each["refusal"]) for each in content["degrees"]] == [(1, None)]


def test_a_load_becomes_cache_degree_and_copies(run, llama_7b):
    load = ("--concurrency", 64, "--input-tokens", 1536, "--output-tokens", 512)
    code, content = planned(run, llama_7b, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm", *load)
    found = content["load"]
    assert (code, found["cache_bytes"]) == (0, 64 * 2048 * 524_288)
    assert found["n_sequences"] * found["n_copies"] >= 64
    text = run(llama_7b, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm", *load).stdout
    assert "load: 64 x (1536 + 512) tokens take 68.7 GB of cache" in text


def test_a_load_of_sequences_that_are_too_long_is_met_nowhere(run, llama_7b):
    load = ("--concurrency", 1, "--input-tokens", 5000)
    found = run(llama_7b, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm", *load)
    assert (found.exit_code, "cannot be met" in found.stdout) == (1, True)
    assert "load: a request of 5256 tokens is longer than the 4096 that the model was made for" in found.stdout


def pointer(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 13476831232\n"
    (folder / "model.safetensors").write_text(text)


def shortened(folder):
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def shard_lost(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def weights_lost(folder):
    (folder / "model.safetensors").unlink()


BROKEN = [
    (pointer, "weights.lfs-pointer"),
    (shortened, "weights.truncated"),
    (shard_lost, "weights.shard-missing"),
    (weights_lost, "weights.missing"),
]


@pytest.mark.parametrize(("break_it", "code"), BROKEN)
def test_a_model_whose_weights_are_not_whole_gets_no_verdict_and_no_figures(run, tmp_path, break_it, code):
    folder = write_sparse(tmp_path / "llama", models.LLAMA_2_7B, "F16")
    break_it(folder)
    flags = (folder, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm")
    exit_code, content = planned(run, *flags)
    assert (exit_code, content["fits"], content["unknown"]) == (1, None, "its weights are not whole")
    assert (code, "error") in [(each["code"], each["severity"]) for each in content["problems"]]
    assert (content["weights"], content["degrees"], content["machines"]) == (None, [], [])
    assert run(*flags).stdout.splitlines()[-1] == "model: cannot tell whether it fits"


def test_what_else_is_wrong_with_the_files_is_told_beside_the_figures(run, tmp_path):
    folder = write_sparse(tmp_path / "llama", models.LLAMA_2_7B, "F16")
    (folder / "tokenizer.json").unlink()
    exit_code, content = planned(run, folder, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm")
    assert (exit_code, content["fits"]) == (0, True)
    assert "tokenizer.missing" in [each["code"] for each in content["problems"]]


def test_more_devices_than_layers_leave_some_empty(run, tmp_path):
    folder = write_sparse(tmp_path / "shallow", {**models.LLAMA_2_7B, "num_hidden_layers": 2}, "F16")
    code, content = planned(run, folder, "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=hf")
    assert (code, [each["fits"] for each in content["degrees"]]) == (0, [True, True, True])
    two, four = (each["weight_bytes"] for each in content["degrees"][1:])
    assert two == four


def test_a_head_that_is_copied_on_a_cpu_is_said(run, tmp_path):
    small = {**models.LLAMA_2_7B, "num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 512}
    folder = write_sparse(tmp_path / "small", {**small, "tie_word_embeddings": True})
    flags = (folder, "-o", "rolling_batch=hf", "-o", "dtype=fp32")
    assert planned(run, *flags)[1]["weights"]["copied_head_bytes"] == 32_000 * 256 * 4
    text = "the output head, which is stored as one with the embedding, gets a copy of 32.8 MB on a CPU"
    assert text in run(*flags).stdout.splitlines()
    assert "gets a copy" not in run(*flags, "--instance", "ml.g5.xlarge").stdout


def test_a_backend_off_its_machines_is_a_problem(run, llama_7b):
    _, content = planned(run, llama_7b, "--instance", "ml.g4dn.12xlarge", "-o", "rolling_batch=trtllm")
    (problem,) = [each for each in content["problems"] if each["code"] == "backend.not-on-instance"]
    assert "trtllm is not offered on g4dn" in problem["message"]
    assert "vllm" in problem["hint"]


def test_a_backend_that_compiles_says_how_long_and_how_to_do_it_once(run, llama_7b):
    found = run(llama_7b, "--instance", "ml.inf2.24xlarge", "-o", "rolling_batch=neuronx")
    assert "after compiling for" in found.stdout
    assert "Compile it once, ahead of time" in found.stdout


def test_without_memory_of_the_devices_the_needs_are_told_and_no_verdict(run, llama_7b):
    found = run(llama_7b, "--devices", "cuda:4", "-o", "rolling_batch=vllm")
    assert (found.exit_code, found.stdout.splitlines()[-1]) == (0, "model: cannot tell whether it fits")
    assert "machine: 4 x cuda of unknown memory" in found.stdout


def test_this_machine_is_planned_for_where_none_is_named(run, tmp_path):
    small = {
        **models.LLAMA_2_7B,
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 300,
    }
    code, content = planned(run, write_sparse(tmp_path / "small", small), "-o", "rolling_batch=hf")
    assert code == 0
    assert content["machine"]["device_memory_bytes"] > 0


def test_two_machines_at_once_are_refused(run, llama_7b):
    found = run(llama_7b, "--instance", "ml.g5.xlarge", "--devices", "cuda:4")
    assert (found.exit_code, "Give one of" in found.output) == (2, True)


def test_a_mistyped_machine_is_refused_before_anything_is_read(run):
    with pytest.raises(ConfigError, match=r"Did you mean 'ml\.g5\.xlarge'"):
        run("/no/such/model", "--instance", "ml.g5.xlrge")


def test_each_of_several_models_is_planned(run, llama_7b, llama_70b):
    flags = ("-m", f"a={llama_7b},b={llama_70b}", "--instance", "ml.g5.12xlarge", "-o", "rolling_batch=vllm")
    code, content = planned(run, *flags)
    assert (code, [(each["model"], each["fits"]) for each in content]) == (1, [("a", True), ("b", False)])


def test_no_model_is_said(run):
    assert run("-m", "NONE").stdout == "no model: load_models says so\n"


def resolved(folder, instance, **options):
    plugins = Plugins.discover({})
    found = resolve(
        ModelEntry(name="model", url=str(folder)), flags={"option.rolling_batch": "vllm", **options}, environ={},
        plugins=plugins, devices=instance_of(instance).target(),
    )  # fmt: skip
    return found, plugins


def test_a_model_elsewhere_is_planned_from_its_description_alone(llama_7b):
    found, plugins = resolved(llama_7b, "ml.p4d.24xlarge")
    away = artifacts_of(models.LLAMA_3_70B, N_PARAMETERS["70B"], folder="s3://bucket/no/such/model")
    content = as_json(plan_memory(replace(found, artifacts=away), plugins, is_here=False))
    assert (content["place"], content["fits"]) == ("s3://bucket/no/such/model", True)
    assert content["start"]["assumption"].startswith("over a network")


def test_an_adapter_is_not_reckoned_and_says_why(llama_7b):
    found, plugins = resolved(llama_7b, "ml.g5.xlarge")
    bare = msgspec.structs.replace(found.artifacts, format=ArtifactFormat.ADAPTER)
    made = plan_memory(replace(found, artifacts=bare), plugins, is_here=False)
    assert "memory: not reckoned, it is an adapter, without the model it is for" in lines_of(made)
    assert (made.is_possible, as_json(made)["degrees"]) == (None, [])
