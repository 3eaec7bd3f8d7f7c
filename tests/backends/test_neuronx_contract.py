# SPDX-License-Identifier: Apache-2.0
"""The backend neuronx keeps the whole contract on a stand-in of its libraries, in each of its ways to batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lmi.testing import BackendContract
from lmi_neuronx.contract import CASE
from tests.backends.neuron_standin import standin_importable


@pytest.fixture(scope="module", autouse=True)
def standin() -> Iterator[None]:
    with standin_importable():
        yield


class TestNeuronx(BackendContract):
    case = CASE
