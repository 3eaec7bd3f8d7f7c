# SPDX-License-Identifier: Apache-2.0
"""What the devices of a machine mean for a configuration."""

import pytest

from lmi.api import Accelerator, Target
from lmi.config import read_settings
from lmi.target import DEGREE, too_few_devices, with_devices


def settings(**environ):
    return read_settings(model_folder=None, environ=environ, flags={})


def machine(n_devices, accelerator=Accelerator.CUDA):
    return Target(accelerator=accelerator, n_devices=n_devices)


@pytest.mark.parametrize("written", ["max", "MAX"])
def test_max_is_the_number_of_devices_and_says_so(written):
    found = with_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE=written), machine(4))[DEGREE]
    assert (found.value, found.source) == ("4", "OPTION_TENSOR_PARALLEL_DEGREE, max of 4 devices")


def test_max_on_a_machine_without_devices_is_one():
    assert with_devices(settings(TENSOR_PARALLEL_DEGREE="max"), machine(0)).text(DEGREE) == "1"


def test_a_number_stays_what_it_is():
    given = settings(OPTION_TENSOR_PARALLEL_DEGREE="2")
    assert with_devices(given, machine(4)) is given


def test_more_devices_than_there_are_is_a_problem_with_both_numbers():
    [problem] = too_few_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE="8"), machine(4))
    assert str(problem) == (
        "[device.too-few] tensor_parallel_degree=8, and this machine has 4 cuda devices "
        "(OPTION_TENSOR_PARALLEL_DEGREE). Set it to 4 or less, to max, or start on a machine with more."
    )


@pytest.mark.parametrize(
    ("degree", "target"), [("4", machine(4)), ("8", machine(1, Accelerator.CPU)), ("x", machine(2))]
)
def test_what_is_enough_or_judged_elsewhere_is_no_problem(degree, target):
    assert too_few_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE=degree), target) == []
