# SPDX-License-Identifier: Apache-2.0
"""Engines that were built before, on trtllm: the machine and the container they are meant for."""

from __future__ import annotations

import pytest

from lmi.api import Accelerator, ModelArtifacts, Severity, Target
from tests.backends.trtllm_builds import A10G, NEW, changed, checked, repository, saved, told

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def test_engines_for_more_gpus_than_there_are_name_both_numbers() -> None:
    two = Target(accelerator=Accelerator.CUDA, n_devices=2, versions=A10G.versions, compute_capability="8.6")
    (problem,) = told(saved(), two)
    assert (problem.code, problem.message) == (
        "device.too-few", "the engines were built for 4 GPUs, and there are 2",
    )  # fmt: skip


VERSIONS = [
    ("0.8.0", "0.8.0", ""),
    ("0.8.0", "0.8.1", ""),
    ("1.2.0rc3", "1.2.1", ""),
    ("0.8.0", "0.9.0", "model.compiler-version"),
    ("0.8.0", "1.8.0", "model.compiler-version"),
]


@pytest.mark.parametrize(("built", "here", "code"), VERSIONS)
def test_engines_load_in_the_version_that_built_them(built: str, here: str, code: str) -> None:
    config = changed(changed(NEW, "version", value=built), "build_config", "compute_capability", value="8.6")
    target = Target(
        accelerator=Accelerator.CUDA, n_devices=4, compute_capability="8.6", versions={"tensorrt-llm": here}
    )
    found = checked(saved(config), target)
    assert [(each.code, each.severity) for each in found] == [(code, ERROR)] * bool(code)
    assert all(built in each.message and here in each.message and here in each.hint for each in found)


def gpu(capability: str = "", name: str = "", instance: str = "") -> Target:
    return Target(
        accelerator=Accelerator.CUDA, n_devices=4, compute_capability=capability, device_name=name, instance=instance,
        versions={"tensorrt-llm": "0.7.1"},
    )  # fmt: skip


GPUS = [
    ("8.6", gpu("8.6"), None),
    ("8.6", gpu("9.0", "NVIDIA H100 80GB HBM3"), ERROR),
    ("8.0", gpu(name="NVIDIA A10G"), ERROR),
    ("8.6", gpu(name="NVIDIA A10G"), None),
    ("8.6", gpu(instance="ml.g6.12xlarge"), ERROR),
    ("8.6", gpu(instance="ml.g5.12xlarge"), None),
]


@pytest.mark.parametrize(("built", "target", "severity"), GPUS)
def test_engines_run_on_the_gpu_they_were_built_on(built: str, target: Target, severity: Severity | None) -> None:
    found = checked(saved(changed(NEW, "build_config", "compute_capability", value=built)), target)
    assert [(each.code, each.severity) for each in found] == [("model.gpu-architecture", severity)] * bool(severity)
    assert all(built in each.message for each in found)


@pytest.mark.parametrize(
    ("folder", "target", "is_told"),
    [
        ("/models/llama-a100-tp2", gpu("8.6", "NVIDIA A10G"), True),
        ("s3://bucket/llama_sm80/", gpu("8.6"), True),
        ("/models/llama-p4d", gpu("8.6"), True),
        ("/models/llama-g5", gpu("8.6"), False),
        ("/models/llama-sm86", gpu("8.6"), False),
    ],
)
def test_a_folder_that_is_named_after_another_gpu_is_a_warning(folder: str, target: Target, is_told: bool) -> None:
    artifacts = repository(changed(NEW, "pretrained_config", "mapping", "pp_size", value=1), folder=folder)
    found = checked(artifacts, target)
    assert [(each.code, each.severity) for each in found] == [("model.gpu-architecture", WARNING)] * is_told


UNKNOWN = [
    (repository(), A10G, ["nothing says which version built them, and the target has 0.7.1", "has NVIDIA A10G"]),
    (repository(), gpu("8.6"), ["nothing says on which GPU they were built, and the target has 8.6"]),
    (saved(), Target(accelerator=Accelerator.CUDA, n_devices=4), ["version 0.7.1 built them", "target's is not known"]),
    (repository(), Target(accelerator=Accelerator.CUDA, n_devices=4), ["neither the version that built them is known"]),
]


@pytest.mark.parametrize(("artifacts", "target", "said"), UNKNOWN)
def test_what_cannot_be_compared_is_said_once(artifacts: ModelArtifacts, target: Target, said: list[str]) -> None:
    (problem,) = checked(artifacts, target)
    assert (problem.code, problem.severity) == ("model.compiled-elsewhere", WARNING)
    assert [text in problem.message for text in said] == [True] * len(said)
    assert "--target tensorrt-llm=VERSION" in problem.hint


def test_a_machine_without_gpus_is_not_compared() -> None:
    assert checked(repository(), Target()) == []


def test_all_mistakes_are_told_at_once() -> None:
    config = changed(NEW, "build_config", "compute_capability", value="8.0")
    target = gpu("8.6")
    found = checked(saved(config, ranks=(0, 1)), target, tensor_parallel_degree=4, max_rolling_batch_size=128)
    assert {each.code for each in found} == {
        "weights.rank-missing", "config.tensor-parallel", "model.compiled-otherwise", "model.gpu-architecture",
    }  # fmt: skip
