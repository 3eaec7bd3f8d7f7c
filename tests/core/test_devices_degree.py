# SPDX-License-Identifier: Apache-2.0
"""The degree that holds where nobody sets one, and how a worker is asked to run."""

import msgspec
import pytest
from pydantic import TypeAdapter, ValidationError

from lmi.api import BackendConfig
from lmi.config import parse
from lmi.config.batching import turned_off_by
from lmi.config.coerce import is_true
from lmi.config.modes import mode_of
from lmi.devices.copies import copies_of
from lmi.devices.degree import is_mpi, with_default_degree
from lmi.target import DEGREE, with_devices
from tests.core.test_target import CPU, INFO, MPI, NEURON, machine, settings


def degree_of(target, info=INFO, refusals=lambda settings: set(), **environ):
    """Degree and source that hold where these variables are set; (None, None) where nothing sets one."""
    found = with_default_degree(with_devices(settings(**environ), target), info, target, refusals).get(DEGREE)
    return (None, None) if found is None else (found.value, found.source)


@pytest.mark.parametrize(
    ("target", "info", "environ", "degree"),
    [
        (machine(4), INFO, {}, ("4", "default: max of 4 devices")),
        (machine(4), INFO, {"OPTION_ENGINE": "Python"}, (None, None)),
        (machine(4), INFO, {"OPTION_ENGINE": "MPI"}, ("4", "default: max of 4 devices")),
        (machine(4), INFO, {"OPTION_ENGINE": "Python", "OPTION_MPI_MODE": "true"}, ("4", "default: max of 4 devices")),
        (machine(4), INFO, {"OPTION_ENGINE": "Python", "OPTION_MPI_MODE": "y"}, ("4", "default: max of 4 devices")),
        (machine(4), INFO, {"OPTION_ENGINE": "Python", "OPTION_MPI_MODE": "no"}, (None, None)),
        (machine(4), MPI, {"OPTION_ENGINE": "Python"}, ("4", "default: max of 4 devices")),
        (machine(4), INFO, {"OPTION_TENSOR_PARALLEL_DEGREE": "2"}, ("2", "OPTION_TENSOR_PARALLEL_DEGREE")),
        (machine(4), INFO, {"SM_NUM_GPUS": "1"}, ("1", "SM_NUM_GPUS")),
        (machine(1), INFO, {}, (None, None)),
        (machine(0), INFO, {}, (None, None)),
        (NEURON, INFO, {}, ("12", "default: max of 12 devices")),
        (NEURON, INFO, {"OPTION_ENGINE": "Python"}, (None, None)),
        (NEURON, INFO, {"OPTION_ENGINE": "MPI"}, (None, None)),
        (CPU, INFO, {}, (None, None)),
        (CPU, MPI, {"OPTION_ENGINE": "MPI"}, (None, None)),
    ],
)
def test_the_default_degree_is_all_devices_but_1_for_python(target, info, environ, degree):
    assert degree_of(target, info, **environ) == degree


def test_a_default_that_does_not_go_with_the_model_gives_way_to_the_largest_divisor_that_does():
    def refusals(tried):
        n = int(tried.text(DEGREE) or 1)
        return {"always wrong"} | ({f"9 heads are no multiple of {n}"} if 9 % n else set())

    source = "default: the most that goes, of 6 devices"
    assert degree_of(machine(6), refusals=refusals) == ("3", source)
    assert degree_of(machine(4), refusals=refusals) == ("1", "default: the most that goes, of 4 devices")
    assert degree_of(machine(4), refusals=refusals, TENSOR_PARALLEL_DEGREE="4")[0] == "4"


def test_parts_of_gpus_are_never_put_together_by_default():
    target = msgspec.structs.replace(machine(2), devices=("MIG-a", "MIG-b"))
    assert degree_of(target) == (None, None)


@pytest.mark.parametrize(
    "text", ["true", "TRUE", "1", "yes", "on", "y", "t", "Y", "false", "0", "no", "off", "n", "f", "2", "truth", "none"]
)
def test_a_switch_is_on_wherever_it_is_read_as_pydantic_reads_it(text):
    try:
        expected = TypeAdapter(bool).validate_python(text)
    except ValidationError:
        expected = False
    assert is_true(text) == expected
    mode = settings(OPTION_MPI_MODE=text, OPTION_ENGINE="Python")
    assert (mode_of(mode), is_mpi(mode, INFO)) == (("mpi", True) if expected else ("python", False))
    off = turned_off_by(settings(OPTION_ROLLING_BATCH="disable", OPTION_ASYNC_MODE=text), INFO)
    assert (off is None) == expected


def test_one_core_where_nothing_was_set_has_one_thread_also_when_1_was_the_most_that_goes():
    given = with_default_degree(settings(), INFO, NEURON, lambda tried: set(tried.text(DEGREE) or "1") - {"1"})
    found = copies_of(given, parse(given, INFO, BackendConfig, {}).options, 1, INFO, NEURON, {})
    assert given[DEGREE].source == "default: the most that goes, of 12 devices"
    assert found.environ_of(0)["OMP_NUM_THREADS"] == "1"
