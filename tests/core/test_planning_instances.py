# SPDX-License-Identifier: Apache-2.0
"""The table of machines, and machines by the memory of their devices."""

import pytest

from lmi.api import Accelerator, ConfigError
from lmi.planning import all_instances, instance_of, parse_memory

GB, GIB = 10**9, 1 << 30

# name, device, devices (cores of Neuron), NVLink, compute capability
MACHINES = [
    ("ml.g4dn.12xlarge", "T4", 4, False, "7.5"),
    ("ml.g5.xlarge", "A10G", 1, False, "8.6"),
    ("ml.g5.12xlarge", "A10G", 4, False, "8.6"),
    ("ml.g6.48xlarge", "L4", 8, False, "8.9"),
    ("ml.g6e.12xlarge", "L40S", 4, False, "8.9"),
    ("ml.p4d.24xlarge", "A100 40GB", 8, True, "8.0"),
    ("ml.p4de.24xlarge", "A100 80GB", 8, True, "8.0"),
    ("ml.p5.48xlarge", "H100", 8, True, "9.0"),
    ("ml.p5en.48xlarge", "H200", 8, True, "9.0"),
    ("ml.inf2.xlarge", "Inferentia2", 2, False, ""),
    ("ml.inf2.24xlarge", "Inferentia2", 12, False, ""),
    ("ml.inf2.48xlarge", "Inferentia2", 24, False, ""),
    ("ml.trn1.2xlarge", "Trainium1", 2, False, ""),
    ("ml.trn1.32xlarge", "Trainium1", 32, False, ""),
]


@pytest.mark.parametrize(("name", "device", "n_devices", "has_nvlink", "capability"), MACHINES)
def test_a_machine_has_the_devices_that_aws_lists(name, device, n_devices, has_nvlink, capability):
    found = instance_of(name)
    assert (found.device, found.n_devices, found.has_nvlink) == (device, n_devices, has_nvlink)
    target = found.target()
    assert (target.instance, target.compute_capability, target.n_devices) == (name, capability, n_devices)
    assert target.device_memory_bytes == found.device_memory_bytes


def test_every_row_says_where_it_is_from_and_is_about_a_name_of_its_own():
    found = all_instances()
    assert all(each.source.startswith("https://") for each in found)
    assert all(each.name == f"ml.{each.family}.{each.name.rpartition('.')[2]}" for each in found)
    assert len({each.name for each in found}) == len(found)


def test_every_machine_is_one_that_sagemaker_hosts_models_on():
    botocore = pytest.importorskip("botocore.session")
    model = botocore.get_session().get_service_model("sagemaker")
    hosted = set(model.shape_for("ProductionVariantInstanceType").enum)
    assert {each.name for each in all_instances()} <= hosted


def test_the_driver_shows_less_memory_than_is_sold():
    sold = {"T4": 16, "A10G": 24, "L4": 24, "L40S": 48, "A100 40GB": 40, "A100 80GB": 80, "H100": 80, "H200": 141}
    for each in all_instances():
        if each.accelerator is Accelerator.CUDA:
            assert 0.9 * sold[each.device] * GIB < each.device_memory_bytes <= sold[each.device] * GIB


def test_two_cores_share_the_memory_of_a_neuron_device():
    assert instance_of("ml.inf2.xlarge").device_memory_bytes == 16 * GIB


@pytest.mark.parametrize("text", ["g5.12xlarge", "ML.G5.12XLARGE", " ml.g5.12xlarge "])
def test_case_and_the_leading_ml_do_not_matter(text):
    assert instance_of(text).name == "ml.g5.12xlarge"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("ml.g5.12xlage", "Did you mean 'ml.g5.12xlarge'?"),
        ("ml.p4d.24xlrge", "Did you mean 'ml.p4d.24xlarge'?"),
        ("ml.m5.xlarge", "For a CPU use --devices cpu"),
        ("c7g.2xlarge", "For a CPU use --devices cpu"),
        ("my laptop", "Families that are known: g4dn, g5, g6, g6e"),
    ],
)
def test_a_mistyped_machine_gets_the_nearest_name(text, hint):
    with pytest.raises(ConfigError) as caught:
        instance_of(text)
    assert caught.value.code == "instance.unknown"
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "n_bytes", "n_devices"),
    [
        ("24GiB", 24 * GIB, 1),
        ("24GiBx4", 24 * GIB, 4),
        ("24GiB x4", 24 * GIB, 4),
        ("80 GB x 8", 80 * GB, 8),
        ("40gb*2", 40 * GB, 2),
        ("22.5GiB", int(22.5 * GIB), 1),
        ("24576MiB", 24 * GIB, 1),
        ("24G", 24 * GB, 1),
    ],
)
def test_memory_of_devices_is_read_in_the_ways_people_write_it(text, n_bytes, n_devices):
    found = parse_memory(text)
    assert (found.device_memory_bytes, found.n_devices, found.accelerator) == (n_bytes, n_devices, Accelerator.CUDA)


@pytest.mark.parametrize("text", ["24", "GiB", "0GiB", "24GiBx0", "24GiBx9999", "24 apples", "-3GiB", "", "24GiB x"])
def test_what_is_no_memory_is_refused_with_the_form_it_has(text):
    with pytest.raises(ConfigError) as caught:
        parse_memory(text)
    assert (caught.value.code, caught.value.hint) == ("instance.bad-memory", "Write 24GiB, or 24GiBx4 for four devices")
