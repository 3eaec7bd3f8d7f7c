# SPDX-License-Identifier: Apache-2.0
import gc
import weakref

import pytest

from lmi.garbage import settle


@pytest.fixture(autouse=True)
def as_it_was():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Node:
    def __init__(self):
        self.itself = self


def test_what_a_start_has_made_is_left_alone():
    node = Node()
    settle()
    assert gc.get_freeze_count() > 0
    assert not any(each is node for each in gc.get_objects())


def test_a_cycle_that_was_alive_at_one_call_and_is_garbage_at_the_next_is_freed():
    node = Node()
    settle()
    seen = weakref.ref(node)
    del node
    gc.collect()
    assert seen() is not None
    settle()
    assert seen() is None
