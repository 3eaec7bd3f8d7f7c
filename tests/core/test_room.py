# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for one more model; plans are made of published sizes, no file is read."""

from __future__ import annotations

import dataclasses

import pytest

from lmi.api import Accelerator, Target
from lmi.api.errors import OutOfMemoryError
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.room import needed_bytes, refuse_without_room
from lmi.testing import write_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The plan of a tiny model on this machine's CPU, which keeps nothing free."""
    folder = write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")

    def of(name="one", **flags):
        entry = ModelEntry(url=str(folder), name=name)
        flags = {"option.rolling_batch": "hf", "option.device": "cpu", "reserved_memory_mb": "0", **flags}
        return plan(entry, flags=flags, environ={}, plugins=Plugins.discover(), devices="cpu")

    return of


def test_a_model_that_fits_is_let_in_and_one_byte_less_is_too_little(made):
    needed = needed_bytes(made())
    assert needed > 0
    refuse_without_room(made(), free_bytes=needed)
    with pytest.raises(OutOfMemoryError, match=r"model\.no-room: model 'one' takes about .*; .* are free"):
        refuse_without_room(made(), free_bytes=needed - 1)


def test_every_copy_on_a_cpu_takes_memory(made):
    assert needed_bytes(made(minWorkers="3")) == 3 * needed_bytes(made())


def test_models_that_are_being_loaded_count(made):
    needed = needed_bytes(made())
    refuse_without_room(made("two"), [made("one")], free_bytes=2 * needed)
    with pytest.raises(OutOfMemoryError, match="for models that are being loaded"):
        refuse_without_room(made("two"), [made("one")], free_bytes=2 * needed - 1)


def test_what_is_reserved_stays_free(made):
    reserving = made(reserved_memory_mb="7")
    needed = needed_bytes(reserving) + 7 * 2**20
    refuse_without_room(reserving, free_bytes=needed)
    with pytest.raises(OutOfMemoryError, match=r"reserved_memory_mb keeps 7\.34 MB"):
        refuse_without_room(reserving, free_bytes=needed - 1)


def test_models_on_different_gpus_are_not_in_each_others_way(made):
    def on(name, *devices):
        found = made(name, minWorkers=str(len(devices)))
        target = Target(accelerator=Accelerator.CUDA, n_devices=2, device_memory_bytes=10**9)
        slices = tuple((device,) for device in devices)
        return dataclasses.replace(found, target=target, copies=dataclasses.replace(found.copies, slices=slices))

    needed = needed_bytes(on("one", "0"))
    refuse_without_room(on("two", "1"), [on("one", "0")], free_bytes=needed)
    with pytest.raises(OutOfMemoryError):
        refuse_without_room(on("two", "0"), [on("one", "0")], free_bytes=needed)
    with pytest.raises(OutOfMemoryError):
        refuse_without_room(on("two", "1"), [on("one", "0", "1")], free_bytes=needed)


def test_the_fullest_gpu_of_all_copies_decides(made, monkeypatch):
    found = made(minWorkers="2")
    target = Target(accelerator=Accelerator.CUDA, n_devices=2, device_memory_bytes=10**9)
    found = dataclasses.replace(found, target=target, copies=dataclasses.replace(found.copies, slices=(("0",), ("1",))))
    free = {"0": 10**9, "1": needed_bytes(found) - 1}
    monkeypatch.setattr("lmi.room.free_bytes_of", lambda entries: [free[each] for each in entries])
    with pytest.raises(OutOfMemoryError):
        refuse_without_room(found)
