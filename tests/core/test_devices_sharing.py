# SPDX-License-Identifier: Apache-2.0
"""Several models of one server on the same devices."""

import pytest

from lmi.api import Accelerator
from lmi.devices.copies import Copies
from lmi.devices.cuda import Gpu
from lmi.devices.sharing import shared_devices
from lmi.plugins import Plugins
from lmi.reading import read_start
from lmi.starting import plan_all
from tests.core.progress import untold


def placed(devices, degree=1, **more):
    """Copies that have these devices, each so many of them."""
    slices = tuple(tuple(devices[place : place + degree]) for place in range(0, len(devices), degree))
    return Copies(
        slices=slices, **{"accelerator": Accelerator.CUDA, "n_min": len(slices), "n_max": len(slices), **more}
    )


@pytest.mark.parametrize(
    ("models", "warned"),
    [
        ({"a": placed("01", 2), "b": placed("23", 2)}, {}),
        (
            {"a": placed("0123", 4), "b": placed("0123")},
            {"b": "model 'b' takes cuda:0,1,2,3, which model 'a' takes too"},
        ),
        ({"a": placed("01"), "b": placed("12")}, {"b": "model 'b' takes cuda:1, which model 'a' takes too"}),
        (
            {"a": placed("01"), "b": placed("23"), "c": placed("02")},
            {"c": "model 'c' takes cuda:0,2, which models 'a' and 'b' take too"},
        ),
        ({"a": placed("0123", n_max=2), "b": placed("23")}, {}),
        (
            {"a": placed("0123", n_min=1, n_max=4), "b": placed("3")},
            {"b": "model 'b' takes cuda:3, which model 'a' takes too"},
        ),
        ({"a": placed("01"), "b": placed("01", accelerator=Accelerator.NEURON)}, {}),
        ({"a": Copies(), "b": Copies(), "c": placed("0")}, {}),
        ({"a": placed("0", n_min=9, n_max=10**9), "b": placed("1")}, {}),
    ],
)
def test_a_later_model_on_devices_of_an_earlier_one_is_warned(models, warned):
    found = shared_devices(models)
    assert list(found) == list(models)
    assert {name: problem.message for name, problems in found.items() for problem in problems} == warned
    for problem in (problem for problems in found.values() for problem in problems):
        assert (problem.code, problem.severity.value) == ("device.shared", "warning")
        assert "NAME:VERSION:ENGINE:DEVICES=URL" in problem.hint and "load_on_devices" in problem.hint


@pytest.fixture
def warnings_of(tmp_path, monkeypatch):
    """What the plans of a server warn of on a machine with four GPUs, by the model's name."""
    gpus = [Gpu(entry=str(number)) for number in range(4)]
    monkeypatch.setattr("lmi.target.visible_gpus", lambda environ, root: (gpus, []))

    def _warnings_of(load_models):
        for name in "ab":
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "serving.properties").write_text("rolling_batch=echo\ntensor_parallel_degree=1\n")
        environ = {"SERVING_LOAD_MODELS": load_models.format(tmp_path)}
        start = read_start(None, environ=environ, flags={}, default_folder=tmp_path / "none")
        return {
            made.name: [str(each) for each in made.warnings] for made in plan_all(start, Plugins.discover({}), untold)
        }

    return _warnings_of


def test_a_start_with_two_models_warns_the_later_one(warnings_of):
    found = warnings_of("a={0}/a,b={0}/b")
    assert [text for text in found["a"] if "device.shared" in text] == []
    [text] = [text for text in found["b"] if "device.shared" in text]
    assert text.startswith("[device.shared] model 'b' takes cuda:0,1,2,3, which model 'a' takes too")


def test_models_whose_entries_part_the_devices_are_not_warned(warnings_of):
    found = warnings_of("a:::gpu0;gpu1={0}/a,b:::gpu2;gpu3={0}/b")
    assert [text for texts in found.values() for text in texts if "device.shared" in text] == []
